//! Addresses of PostgreSQL: URLs as libpq takes them (PostgreSQL 15, "34.1.1.2. Connection URIs"), with
//! several hosts. A parameter that is not supported is refused by its name; no error contains a value.

use std::borrow::Cow;
use std::net::IpAddr;
use std::path::Path;

use sqlx::postgres::PgConnectOptions;

use super::passfile;
use super::startup_options::{self, NamedSettings};
use super::tls::{self, Source, Tls};
use crate::server_url::{self, UrlParts};

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
    pub settings: NamedSettings,
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

impl From<String> for AddressError {
    fn from(problem: String) -> Self {
        refused(problem)
    }
}

/// The value of an environment variable.
type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The parts of a URL, before defaults.
#[derive(Default)]
struct Parts {
    hosts: Vec<String>,
    addresses: Vec<String>,
    ports: Vec<Option<u16>>,
    user: Option<String>,
    password: Option<String>,
    database: Option<String>,
    passfile: Option<String>,
    tls: Tls,
    settings: NamedSettings,
}

impl Address {
    /// Parses a URL, and reads the password file that it names. Where the URL is silent, the variables of
    /// libpq count.
    pub fn parse(url: &str) -> Result<Self, AddressError> {
        let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self::parse_in(url, &environment)
    }

    fn parse_in(url: &str, environment: Environment<'_>) -> Result<Self, AddressError> {
        let rest = url
            .strip_prefix("postgres://")
            .or_else(|| url.strip_prefix("postgresql://"))
            .ok_or_else(|| refused("must be a URL that starts with postgres://"))?;
        if rest.is_empty() {
            return Err(refused("must name a host, or a socket by ?host=/folder"));
        }
        let url = UrlParts::split(rest)?;
        let decode = |text: &str, what: &str| {
            server_url::decode(text).map_err(|problem| refused(format!("{what} {problem}")))
        };
        let mut parts = Parts {
            user: non_empty(decode(url.user, "the user name")?),
            password: url.password.map(|text| decode(text, "the password")).transpose()?,
            database: non_empty(decode(
                url.path.strip_prefix('/').unwrap_or_default(),
                "the database",
            )?),
            ..Parts::default()
        };
        if !url.hosts.is_empty() {
            (parts.hosts, parts.ports) = server_url::hosts(url.hosts)?.into_iter().unzip();
        }
        let wanted = parts.take_parameters(&url)?;
        parts.take_environment(environment)?;
        parts.into_address(wanted)
    }
}

impl Parts {
    fn take_parameters(&mut self, url: &UrlParts<'_>) -> Result<Wanted, AddressError> {
        let mut wanted = Wanted::Any;
        for parameter in url.parameters()? {
            let value = parameter.value.as_str();
            match parameter.name.as_str() {
                "host" => self.hosts = list(value),
                "hostaddr" => self.addresses = list(value),
                "port" => self.ports = ports(value, "the parameter port")?,
                "user" => self.user = Some(value.to_owned()),
                "password" => self.password = Some(value.to_owned()),
                "dbname" => self.database = Some(value.to_owned()),
                "passfile" => self.passfile = Some(value.to_owned()),
                "options" => self.settings.extend(startup_options::settings(value)?),
                "target_session_attrs" => wanted = wanted_of(value)?,
                // The only values that the service can honour.
                "client_encoding"
                    if matches!(value.to_ascii_lowercase().as_str(), "utf8" | "auto") => {}
                "load_balance_hosts" if value == "disable" => {}
                name if WITHOUT_EFFECT.contains(&name) => {}
                name if self.tls.take(name, value, Source::Url)? => {}
                name => {
                    let setting =
                        name.strip_prefix("options[").and_then(|rest| rest.strip_suffix(']'));
                    let setting = setting.and_then(|name| startup_options::setting(name, value));
                    let refuse = || {
                        let shown = parameter.shown().unwrap_or("(not shown)");
                        refused(format!("the parameter {shown} (or its value) is not supported"))
                    };
                    self.settings.push(setting.ok_or_else(refuse)?);
                }
            }
        }
        Ok(wanted)
    }

    /// Takes what sqlx would take unseen, or ignore although it is wrong. User, password and database of
    /// the environment are those of sqlx.
    fn take_environment(&mut self, environment: Environment<'_>) -> Result<(), AddressError> {
        for (variable, name) in tls::VARIABLES {
            let Some(value) = environment(variable) else { continue };
            if !self.tls.take(name, &value, Source::Environment)? {
                return Err(refused(format!(
                    "the variable {variable} (or its value) is not supported"
                )));
            }
        }
        if self.hosts.is_empty() && self.addresses.is_empty() {
            let of =
                |variable: &str| environment(variable).as_deref().map(list).unwrap_or_default();
            (self.hosts, self.addresses) = (of("PGHOST"), of("PGHOSTADDR"));
        }
        if let (true, Some(port)) = (self.ports.iter().all(Option::is_none), environment("PGPORT"))
        {
            self.ports = ports(&port, "the variable PGPORT")?;
        }
        if self.database.is_none() {
            self.database = environment("PGDATABASE");
        }
        Ok(())
    }

    fn into_address(mut self, wanted: Wanted) -> Result<Address, AddressError> {
        if !self.addresses.is_empty() {
            // The name in the certificate and in the password file would be that of the address.
            if self.hosts.iter().any(|host| !host.is_empty()) {
                return Err(refused(
                    "the parameter hostaddr (PGHOSTADDR): must not be given with a host; name the host only",
                ));
            }
            if self.addresses.iter().any(|address| address.parse::<IpAddr>().is_err()) {
                return Err(refused("the parameter hostaddr: must be an IP address"));
            }
            self.hosts = std::mem::take(&mut self.addresses);
        }
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
            self.options(host, port.unwrap_or(DEFAULT_PORT), passfile.as_deref())
        };
        let hosts = hosts.iter().enumerate().map(options).collect::<Result<_, _>>()?;
        Ok(Address { hosts, wanted, settings: self.settings })
    }

    fn options(
        &self,
        host: &str,
        port: u16,
        passfile: Option<&str>,
    ) -> Result<PgConnectOptions, AddressError> {
        // PgBouncer refuses `extra_float_digits` at start; values travel in binary.
        let options = PgConnectOptions::new_without_pgpass().extra_float_digits(None);
        let mut options = match host {
            "" => options,
            folder if folder.starts_with('/') => options.socket(folder),
            host => options.host(host),
        };
        options = options.port(port);
        if let Some(user) = &self.user {
            options = options.username(user);
        }
        if let Some(database) = &self.database {
            options = options.database(database);
        }
        options = self.tls.apply(options)?;
        let password = self.password.clone().or_else(|| {
            if std::env::var_os("PGPASSWORD").is_some() {
                return None;
            }
            let database = self.database.as_deref().unwrap_or(options.get_username());
            let of = [host, &port.to_string(), database, options.get_username()];
            passfile::find_password(passfile?, of)
        });
        Ok(match password {
            Some(password) => options.password(&password),
            None => options,
        })
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

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::to_owned).collect()
}

fn ports(text: &str, what: &str) -> Result<Vec<Option<u16>>, AddressError> {
    let port = |text: &str| {
        server_url::port(text).map_err(|_| refused(format!("{what}: must be from 1 to 65535")))
    };
    text.split(',').map(port).collect()
}

fn non_empty(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgSslMode;

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
            ("postgres://u:p/secret@h/d", "has an @ after a /: percent-encode"),
            ("postgres://u:1/secret@h/d", "has an @ after a /: percent-encode"),
            ("postgres://u:p?secret=x@h/d", "has an @ after a ?: percent-encode"),
            ("postgres://u:5?secret=x@h/d", "has an @ after a ?: percent-encode"),
            ("postgres://h/d?user=u&password=ab&secret=x", "not shown"),
            ("postgres://h/d?secretWord=secret", "not shown"),
            ("postgres://u:%zzsecret@h/d", "the password has a %"),
            ("postgres://u%00secret@h/d", "the user name has a %"),
            ("postgres://h/%FFsecret", "the database has a %"),
            ("postgres://u:secret@h:port/d", "from 1 to 65535"),
            ("postgres://u:secret@h:0/d", "from 1 to 65535"),
            ("postgres://u:secret@h/d?port=0", "the parameter port"),
            ("postgres://u:secret@[h]/d", "IPv6"),
            ("postgres://u:secret@h,i/d?port=1,2,3", "the ports"),
            ("postgres://u:secret@h/d?sslmode=allow", "the parameter sslmode"),
            ("postgres://u:secret@h/d?sslcert=/dev/null", "sslkey"),
            ("postgres://u:secret@h/d?options=secret", "options"),
            ("postgres://u:secret@h/d?options[]=secret", "is not supported"),
            ("postgres://u:secret@h/d?hostaddr=10.0.0.5", "hostaddr"),
            ("postgres:///d?hostaddr=10.0.0.5&host=secret", "hostaddr"),
            ("postgres:///d?hostaddr=secret", "hostaddr"),
            ("mysql://u:secret@h", "postgres://"),
        ] {
            let error = Address::parse(url).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains("secret"), "{url}: {error}");
        }
    }

    #[test]
    fn the_environment_counts_where_the_url_is_silent() {
        let parse = |url: &str, variables: &[(&str, &str)]| {
            let value = |name: &str| {
                let set = variables.iter().find(|(variable, _)| *variable == name);
                set.map(|(_, value)| (*value).to_owned())
            };
            Address::parse_in(url, &value).map_err(|error| error.to_string())
        };
        let hosts = |url: &str, variables: &[(&str, &str)]| {
            let address = parse(url, variables).unwrap();
            let host = |of: &PgConnectOptions| format!("{}:{}", of.get_host(), of.get_port());
            address.hosts.iter().map(host).collect::<Vec<_>>()
        };
        let set = [("PGHOST", "a,b"), ("PGPORT", "7"), ("PGHOSTADDR", "10.0.0.5")];
        assert_eq!(hosts("postgres:///d", &set[..2]), ["a:7", "b:7"]);
        assert_eq!(hosts("postgres:///d", &set[1..]), ["10.0.0.5:7"]);
        assert_eq!(hosts("postgres://h/d", &set), ["h:7"]);
        assert_eq!(hosts("postgres://h:1/d", &set), ["h:1"]);
        assert_eq!(hosts("postgres:///d?hostaddr=10.0.0.6", &set[..2]), ["10.0.0.6:7"]);
        for (variables, expected) in [
            (&set[..], "PGHOSTADDR"),
            (&[("PGPORT", "secret")], "the variable PGPORT"),
            (&[("PGSSLMODE", "secret")], "the variable PGSSLMODE"),
            (&[("PGCHANNELBINDING", "require")], "the variable PGCHANNELBINDING"),
            (&[("PGSSLCRL", "/secret")], "the variable PGSSLCRL"),
        ] {
            let error = parse("postgres:///d", variables).unwrap_err();
            assert!(error.contains(expected) && !error.contains("secret"), "{error}");
        }
        let address = parse("postgres://h/d?sslmode=require", &[("PGSSLROOTCERT", "/dev/null")]);
        assert!(matches!(address.unwrap().hosts[0].get_ssl_mode(), PgSslMode::VerifyCa));
    }
}
