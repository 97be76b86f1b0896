//! Addresses of PostgreSQL: URLs as libpq takes them (PostgreSQL 15, "34.1.1.2. Connection URIs"), with
//! several hosts. A parameter that is not supported is refused by its name; no error contains a value.

use std::borrow::Cow;
use std::net::IpAddr;
use std::path::Path;

use percent_encoding::percent_decode_str;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::passfile;

/// The port of a host without one.
const DEFAULT_PORT: u16 = 5432;

/// Parameters of libpq that cannot weaken anything if they are ignored: the service has limits and
/// application names of its own.
const WITHOUT_EFFECT: [&str; 8] = [
    "application_name",
    "fallback_application_name",
    "connect_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
];

/// The server that a URL asks for (`target_session_attrs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The URL does not say.
    Any,
    Primary,
    Standby,
}

/// A parsed URL.
#[derive(Debug, Clone)]
pub struct Address {
    /// One per host, in the order of the URL; at least one.
    pub hosts: Vec<PgConnectOptions>,
    pub wanted: Wanted,
    /// Settings of the session, from `options`.
    pub settings: Vec<(String, String)>,
}

/// Why a URL was refused. The text contains no value of the URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AddressError(Cow<'static, str>);

impl AddressError {
    pub(super) fn wrong_target(is_primary: bool) -> Self {
        let wanted = if is_primary { "read-write, primary" } else { "read-only, standby" };
        refused(format!("the parameter target_session_attrs: must be any, {wanted}, or absent"))
    }
}

fn refused(problem: impl Into<Cow<'static, str>>) -> AddressError {
    AddressError(problem.into())
}

/// The parts of a URL, before defaults.
#[derive(Default)]
struct Parts {
    hosts: Vec<String>,
    ports: Vec<Option<u16>>,
    user: Option<String>,
    password: Option<String>,
    database: Option<String>,
    passfile: Option<String>,
    ssl_mode: Option<PgSslMode>,
    root_certificate: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
    settings: Vec<(String, String)>,
}

impl Address {
    /// Parses a URL, and reads the password file that it names.
    pub fn parse(url: &str) -> Result<Self, AddressError> {
        let rest = url
            .strip_prefix("postgres://")
            .or_else(|| url.strip_prefix("postgresql://"))
            .ok_or_else(|| refused("must be a URL that starts with postgres://"))?;
        if rest.is_empty() {
            return Err(refused("must name a host, or a socket by ?host=/folder"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let mut parts = Parts::default();
        let hosts = match authority.rsplit_once('@') {
            Some((credentials, hosts)) => {
                let (user, password) = match credentials.split_once(':') {
                    Some((user, password)) => (user, Some(password)),
                    None => (credentials, None),
                };
                parts.user = non_empty(decoded(user, "the user name")?);
                parts.password = password.map(|text| decoded(text, "the password")).transpose()?;
                hosts
            }
            None => authority,
        };
        for host in hosts.split(',').filter(|_| !hosts.is_empty()) {
            let (host, port) = host_and_port(host)?;
            parts.hosts.push(decoded(host, "the host")?);
            parts.ports.push(port);
        }
        parts.database = non_empty(decoded(database, "the database")?);
        let wanted = parts.take_parameters(query)?;
        parts.into_address(wanted)
    }
}

impl Parts {
    fn take_parameters(&mut self, query: &str) -> Result<Wanted, AddressError> {
        let mut wanted = Wanted::Any;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decoded(name, "a parameter's name")?;
            let value = decoded(value, &format!("the parameter {}", shown(&name)))?;
            match name.as_str() {
                "host" | "hostaddr" => {
                    self.hosts = value.split(',').map(str::to_owned).collect();
                    if name == "hostaddr"
                        && self.hosts.iter().any(|host| host.parse::<IpAddr>().is_err())
                    {
                        return Err(refused("the parameter hostaddr: must be an IP address"));
                    }
                }
                "port" => {
                    let port = |text: &str| {
                        text.parse()
                            .map(Some)
                            .map_err(|_| refused("the parameter port: must be a number"))
                    };
                    self.ports = value.split(',').map(port).collect::<Result<_, _>>()?;
                }
                "user" => self.user = Some(value),
                "password" => self.password = Some(value),
                "dbname" => self.database = Some(value),
                "passfile" => self.passfile = Some(value),
                "options" => self.settings.extend(settings(&value)?),
                "target_session_attrs" => wanted = wanted_of(&value)?,
                // The only values that the service can honour.
                "client_encoding"
                    if matches!(value.to_ascii_lowercase().as_str(), "utf8" | "auto") => {}
                "channel_binding" | "gssencmode"
                    if matches!(value.as_str(), "disable" | "prefer") => {}
                "sslnegotiation" if value == "postgres" => {}
                "load_balance_hosts" if value == "disable" => {}
                name if WITHOUT_EFFECT.contains(&name) => {}
                name if name.starts_with("ssl") && self.take_tls(name, &value)? => {}
                name => match name.strip_prefix("options[").and_then(|rest| rest.strip_suffix(']'))
                {
                    Some(setting) => self.settings.push((setting.to_owned(), value)),
                    None => {
                        return Err(refused(format!(
                            "the parameter {} (or its value) is not supported",
                            shown(name)
                        )));
                    }
                },
            }
        }
        if self.certificate.is_some() != self.key.is_some() {
            return Err(refused("the parameters sslcert and sslkey: set both or none"));
        }
        Ok(wanted)
    }

    /// Takes a parameter of TLS; whether it is known.
    fn take_tls(&mut self, name: &str, value: &str) -> Result<bool, AddressError> {
        match name {
            "sslmode" => {
                self.ssl_mode = Some(value.parse().map_err(|_| {
                    refused(
                        "the parameter sslmode: must be disable, allow, prefer, require, verify-ca or \
                         verify-full",
                    )
                })?);
            }
            "sslrootcert" => self.root_certificate = Some(existing(value, name)?),
            "sslcert" => self.certificate = Some(existing(value, name)?),
            "sslkey" => self.key = Some(existing(value, name)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn into_address(self, wanted: Wanted) -> Result<Address, AddressError> {
        let hosts = if self.hosts.is_empty() { vec![String::new()] } else { self.hosts.clone() };
        if self.ports.len() > 1 && self.ports.len() != hosts.len() {
            return Err(refused("the ports: must be as many as the hosts, or one"));
        }
        let passfile = match &self.passfile {
            Some(path) => Some(passfile::read(Path::new(path)).map_err(refused)?),
            None => passfile::default_path().and_then(|path| passfile::read(&path).ok()),
        };
        let options = |(at, host): (usize, &String)| {
            let port = self.ports.get(at).or(self.ports.first()).copied().flatten();
            self.options(host, port, passfile.as_deref())
        };
        let hosts = hosts.iter().enumerate().map(options).collect();
        Ok(Address { hosts, wanted, settings: self.settings })
    }

    fn options(&self, host: &str, port: Option<u16>, passfile: Option<&str>) -> PgConnectOptions {
        // PGHOST, PGUSER and the like count where the URL is silent, as in libpq. PgBouncer refuses
        // `extra_float_digits` at start; values travel in binary.
        let mut options = PgConnectOptions::new_without_pgpass().extra_float_digits(None);
        if host.starts_with('/') {
            options = options.socket(host);
        } else if !host.is_empty() {
            options = options.host(host);
        }
        if port.is_some() || !host.is_empty() {
            options = options.port(port.unwrap_or(DEFAULT_PORT));
        }
        if let Some(user) = &self.user {
            options = options.username(user);
        }
        if let Some(database) = &self.database {
            options = options.database(database);
        }
        let mut ssl_mode = self.ssl_mode;
        if let Some(file) = &self.root_certificate {
            options = options.ssl_root_cert(file);
            // As in libpq: a root certificate is there to be checked.
            if matches!(ssl_mode, Some(PgSslMode::Require)) {
                ssl_mode = Some(PgSslMode::VerifyCa);
            }
        }
        if let Some(ssl_mode) = ssl_mode {
            options = options.ssl_mode(ssl_mode);
        }
        if let (Some(certificate), Some(key)) = (&self.certificate, &self.key) {
            options = options.ssl_client_cert(certificate).ssl_client_key(key);
        }
        let password = self.password.clone().or_else(|| {
            if std::env::var_os("PGPASSWORD").is_some() {
                return None;
            }
            let database = self.database.as_deref().unwrap_or(options.get_username());
            let of =
                [host, &port.unwrap_or(DEFAULT_PORT).to_string(), database, options.get_username()];
            passfile::find_password(passfile?, of)
        });
        match password {
            Some(password) => options.password(&password),
            None => options,
        }
    }
}

fn wanted_of(value: &str) -> Result<Wanted, AddressError> {
    match value {
        "any" => Ok(Wanted::Any),
        "read-write" | "primary" => Ok(Wanted::Primary),
        "read-only" | "standby" | "prefer-standby" => Ok(Wanted::Standby),
        _ => Err(refused(
            "the parameter target_session_attrs: must be any, read-write, primary, read-only, standby or \
             prefer-standby",
        )),
    }
}

/// `host`, `host:port`, `[IPv6]:port`.
fn host_and_port(text: &str) -> Result<(&str, Option<u16>), AddressError> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) =
            rest.split_once(']').ok_or_else(|| refused("the host: a bracket is not closed"))?;
        (host, rest.strip_prefix(':').unwrap_or(rest))
    } else {
        text.split_once(':').unwrap_or((text, ""))
    };
    if port.is_empty() {
        return Ok((host, None));
    }
    let port = port.parse().map_err(|_| {
        refused("the port: must be a number (are the characters @ : / ? # of the password percent-encoded?)")
    })?;
    Ok((host, Some(port)))
}

fn decoded(text: &str, what: &str) -> Result<String, AddressError> {
    let text = percent_decode_str(text).decode_utf8();
    text.map(String::from).map_err(|_| refused(format!("{what}: must be UTF-8")))
}

fn non_empty(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// A parameter's name, as far as it can be one: with a wrong `?` in a password it is not.
fn shown(name: &str) -> &str {
    let is_name = |c: char| c.is_ascii_lowercase() || matches!(c, '_' | '-');
    if name.len() <= 32 && name.chars().all(is_name) { name } else { "(not shown)" }
}

fn existing(path: &str, name: &str) -> Result<String, AddressError> {
    match std::fs::metadata(path) {
        Ok(_) => Ok(path.to_owned()),
        Err(error) => Err(refused(format!("the parameter {name}: cannot open the file: {error}"))),
    }
}

/// The settings of `-c name=value` and `--name=value`; a backslash escapes a blank.
fn settings(options: &str) -> Result<Vec<(String, String)>, AddressError> {
    let problem = || refused("the parameter options: must be like -c name=value");
    let mut words = vec![String::new()];
    let mut characters = options.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => words.last_mut().expect("never empty").extend(characters.next()),
            c if c.is_ascii_whitespace() => words.push(String::new()),
            c => words.last_mut().expect("never empty").push(c),
        }
    }
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    let mut settings = vec![];
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("-c") {
            Some("") => words.next().ok_or_else(problem)?,
            Some(setting) => setting.to_owned(),
            None => word.strip_prefix("--").ok_or_else(problem)?.replace('-', "_"),
        };
        let (name, value) = setting.split_once('=').ok_or_else(problem)?;
        settings.push((name.to_owned(), value.to_owned()));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_ports_and_credentials_are_those_of_the_url() {
        let address = Address::parse(
            "postgres://u%40x:p%2F%3A%C3%A9@[::1]:5433,h2/d%20b?options=-c%20jit=off",
        )
        .unwrap();
        let [first, second] = address.hosts.as_slice() else { panic!("{address:?}") };
        assert_eq!((first.get_host(), first.get_port()), ("::1", 5433));
        assert_eq!((second.get_host(), second.get_port()), ("h2", DEFAULT_PORT));
        assert_eq!((first.get_username(), first.get_database()), ("u@x", Some("d b")));
        assert_eq!(address.settings, [("jit".to_owned(), "off".to_owned())]);
        let socket = Address::parse("postgresql:///db?host=/run/postgresql&user=u").unwrap();
        assert_eq!(socket.hosts[0].get_socket().unwrap(), Path::new("/run/postgresql"));
        let encoded = Address::parse("postgres://%2Frun%2Fpostgresql/db").unwrap();
        assert_eq!(encoded.hosts[0].get_socket().unwrap(), Path::new("/run/postgresql"));
    }

    #[test]
    fn unsupported_parameters_are_refused_by_name_and_without_their_value() {
        for (url, part) in [
            ("postgres://u:secret@h/d?sslpassword=secret", "sslpassword"),
            ("postgres://u:secret@h/d?channel_binding=require&x=secret", "channel_binding"),
            ("postgres://u:secret@h/d?sslmode=secret", "sslmode"),
            ("postgres://u:se/cret@h/d", "port"),
            ("postgres://u:p?secretWord=secret@h/d", "percent-encoded"),
            ("postgres://h/d?secretWord=secret", "not shown"),
            ("postgres://u:secret@h/d?sslcert=/dev/null", "sslkey"),
            ("postgres://u:secret@h/d?options=secret", "options"),
            ("mysql://u:secret@h", "postgres://"),
        ] {
            let error = Address::parse(url).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains("secret"), "{url}: {error}");
        }
    }
}
