//! TLS of a connection, as the URL or the environment asks for it (PostgreSQL 15, "34.19. SSL Support"). What
//! asks for a check is never weakened in silence.

use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// The variables of libpq, and the parameters that they stand for. Those that the service cannot honour are
/// refused, as in a URL.
pub(super) const VARIABLES: [(&str, &str); 11] = [
    ("PGSSLMODE", "sslmode"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGSSLCRL", "sslcrl"),
    ("PGSSLCRLDIR", "sslcrldir"),
    ("PGSSLNEGOTIATION", "sslnegotiation"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGGSSENCMODE", "gssencmode"),
    ("PGREQUIREAUTH", "require_auth"),
    ("PGREQUIREPEER", "requirepeer"),
];

/// Where a value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Url,
    /// It counts where the URL is silent.
    Environment,
}

/// What was asked for.
#[derive(Debug, Default)]
pub(super) struct Tls {
    mode: Option<(PgSslMode, Source)>,
    root_certificate: Option<(String, Source)>,
    certificate: Option<(String, Source)>,
    key: Option<(String, Source)>,
}

impl Tls {
    /// Takes a parameter; whether it can be honoured.
    pub fn take(&mut self, name: &str, value: &str, source: Source) -> Result<bool, String> {
        let of_file = match name {
            "sslmode" => {
                let mode = mode(value).ok_or_else(|| {
                    let modes = "disable, prefer, require, verify-ca or verify-full";
                    format!("{}: must be {modes}", shown(name, source))
                })?;
                self.mode = Some(chosen(self.mode.take(), (mode, source)));
                return Ok(true);
            }
            "sslrootcert" => &mut self.root_certificate,
            "sslcert" => &mut self.certificate,
            "sslkey" => &mut self.key,
            "channel_binding" | "gssencmode" => return Ok(matches!(value, "disable" | "prefer")),
            "sslnegotiation" => return Ok(value == "postgres"),
            _ => return Ok(false),
        };
        *of_file = Some(chosen(of_file.take(), (existing(value, name, source)?, source)));
        Ok(true)
    }

    /// The mode: a root certificate is there to be checked.
    pub fn mode(&self) -> Result<PgSslMode, String> {
        if self.certificate.is_some() != self.key.is_some() {
            return Err("the parameters sslcert and sslkey: set both or none".to_owned());
        }
        let root = self.root_certificate.as_ref().map(|(_, source)| *source);
        match (self.mode, root) {
            (Some((PgSslMode::Disable, Source::Url)), Some(Source::Environment)) => {
                Ok(PgSslMode::Disable)
            }
            (Some((PgSslMode::Disable, of_mode)), Some(of_root)) => {
                let (root, mode) = (shown("sslrootcert", of_root), shown("sslmode", of_mode));
                Err(format!("{root}: contradicts disable, the value of {mode}"))
            }
            (None | Some((PgSslMode::Prefer | PgSslMode::Require, _)), Some(_)) => {
                Ok(PgSslMode::VerifyCa)
            }
            (mode, _) => Ok(mode.map_or(PgSslMode::Prefer, |(mode, _)| mode)),
        }
    }

    /// Sets the mode and the files. A Unix socket has no TLS.
    pub fn apply(&self, options: PgConnectOptions) -> Result<PgConnectOptions, String> {
        let is_socket = options.get_socket().is_some() || options.get_host().starts_with('/');
        let mode = self.mode()?;
        let mut options = options.ssl_mode(if is_socket { PgSslMode::Disable } else { mode });
        if let Some((file, Source::Url)) = &self.root_certificate {
            options = options.ssl_root_cert(file);
        }
        if let Some((file, Source::Url)) = &self.certificate {
            options = options.ssl_client_cert(file);
        }
        if let Some((file, Source::Url)) = &self.key {
            options = options.ssl_client_key(file);
        }
        // `options` has those of the environment.
        Ok(options)
    }
}

/// The name of a parameter in an error.
pub(super) fn shown(name: &str, source: Source) -> String {
    let variable = VARIABLES.iter().find(|(_, parameter)| *parameter == name);
    match (source, variable) {
        (Source::Environment, Some((variable, _))) => format!("the variable {variable}"),
        (_, _) => format!("the parameter {name}"),
    }
}

/// The mode of a name. `allow` is none: it would never use TLS here.
fn mode(name: &str) -> Option<PgSslMode> {
    match name.to_ascii_lowercase().as_str() {
        "disable" => Some(PgSslMode::Disable),
        "prefer" => Some(PgSslMode::Prefer),
        "require" => Some(PgSslMode::Require),
        "verify-ca" => Some(PgSslMode::VerifyCa),
        "verify-full" => Some(PgSslMode::VerifyFull),
        _ => None,
    }
}

/// The last value of the URL, or else that of the environment.
fn chosen<T>(old: Option<(T, Source)>, new: (T, Source)) -> (T, Source) {
    match (old, new) {
        (Some((old, Source::Url)), (_, Source::Environment)) => (old, Source::Url),
        (_, new) => new,
    }
}

fn existing(path: &str, name: &str, source: Source) -> Result<String, String> {
    match std::fs::metadata(path) {
        Ok(_) => Ok(path.to_owned()),
        Err(error) => Err(format!("{}: cannot open the file: {error}", shown(name, source))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "/dev/null";

    fn tls(url: &[(&str, &str)], environment: &[(&str, &str)]) -> Result<Tls, String> {
        let mut tls = Tls::default();
        for (name, value) in url {
            assert!(tls.take(name, value, Source::Url)?, "{name}={value}");
        }
        for (name, value) in environment {
            assert!(tls.take(name, value, Source::Environment)?, "{name}={value}");
        }
        Ok(tls)
    }

    #[test]
    fn a_root_certificate_is_checked_wherever_it_and_the_mode_come_from() {
        let root = ("sslrootcert", FILE);
        let mode = |mode| ("sslmode", mode);
        for (url, environment, expected) in [
            (vec![], vec![], "Prefer"),
            (vec![root], vec![], "VerifyCa"),
            (vec![], vec![root], "VerifyCa"),
            (vec![root, mode("prefer")], vec![], "VerifyCa"),
            (vec![mode("require"), root], vec![], "VerifyCa"),
            (vec![root], vec![mode("require")], "VerifyCa"),
            (vec![mode("require")], vec![root], "VerifyCa"),
            (vec![], vec![mode("prefer"), root], "VerifyCa"),
            (vec![mode("verify-full"), root], vec![mode("disable")], "VerifyFull"),
            (vec![root], vec![mode("verify-full")], "VerifyFull"),
            (vec![mode("disable")], vec![root, mode("verify-full")], "Disable"),
            (vec![mode("require")], vec![], "Require"),
            (vec![], vec![mode("disable")], "Disable"),
        ] {
            let mode = tls(&url, &environment).unwrap().mode().unwrap();
            assert_eq!(format!("{mode:?}"), expected, "{url:?} {environment:?}");
        }
        for (url, environment) in [
            (vec![mode("disable"), root], vec![]),
            (vec![root], vec![mode("disable")]),
            (vec![], vec![mode("disable"), root]),
        ] {
            let error = tls(&url, &environment).unwrap().mode().unwrap_err();
            assert!(error.contains(": contradicts disable, "), "{url:?} {environment:?}: {error}");
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_with_the_name_of_its_source() {
        for (name, value, source, expected) in [
            ("sslmode", "allow", Source::Url, "the parameter sslmode: must be"),
            ("sslmode", "verify_full", Source::Environment, "the variable PGSSLMODE: must be"),
            ("sslrootcert", "system", Source::Environment, "the variable PGSSLROOTCERT: cannot"),
            ("sslkey", "", Source::Url, "the parameter sslkey: cannot"),
        ] {
            let error = Tls::default().take(name, value, source).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
        for (name, value) in [
            ("channel_binding", "require"),
            ("gssencmode", "require"),
            ("sslnegotiation", "direct"),
            ("sslcrl", FILE),
            ("require_auth", "scram-sha-256"),
        ] {
            assert_eq!(Tls::default().take(name, value, Source::Environment), Ok(false), "{name}");
        }
        let mixed = tls(&[("sslcert", FILE)], &[("sslkey", FILE)]).unwrap();
        assert!(mixed.mode().is_ok());
        let half = tls(&[], &[("sslkey", FILE)]).unwrap();
        assert!(half.mode().unwrap_err().contains("sslcert and sslkey"));
    }

    #[test]
    fn a_unix_socket_has_no_tls() {
        let options = PgConnectOptions::new_without_pgpass();
        let tls = tls(&[("sslmode", "verify-full")], &[]).unwrap();
        let over_tcp = tls.apply(options.clone().host("h")).unwrap();
        assert!(matches!(over_tcp.get_ssl_mode(), PgSslMode::VerifyFull));
        for socket in [options.clone().socket("/run"), options.host("/run")] {
            let socket = tls.apply(socket).unwrap();
            assert!(matches!(socket.get_ssl_mode(), PgSslMode::Disable));
        }
    }
}
