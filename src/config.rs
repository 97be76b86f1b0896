//! Configuration: from the environment only, read once, each bad value refused with one line that
//! names it. Secrets are never printed.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;

/// Everything that can be configured; one field per variable of [`VARIABLES`].
#[derive(Debug, Clone)]
pub struct Config {
    pub database_url: Option<SecretString>,
    pub owner_database_url: Option<SecretString>,
    pub read_database_url: Option<SecretString>,
    pub redis_url: Option<SecretString>,
    pub redis_prefix: String,
    pub listen: SocketAddr,
    /// The configured one; [`Config::public_url`] knows the default.
    pub public_url: Option<String>,
    pub keys_dir: PathBuf,
    pub token_ttl: Duration,
    pub cookie_binding: CookieBinding,
    /// Live sessions per account; 0 = no limit.
    pub session_limit: u32,
    /// Requests per second and client address; 0 = off.
    pub rate_limit: u32,
    /// Requests per second and account, of all processes together; 0 = off.
    pub account_limit: u32,
    /// Failed log-ins per minute, per account and per address; 0 = off.
    pub login_limit: u32,
    pub trusted_proxies: Vec<IpNet>,
    pub cors_origins: Vec<String>,
    pub log: String,
    pub log_format: LogFormat,
    pub otlp_endpoint: Option<String>,
}

/// When a session is bound to its cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CookieBinding {
    /// By the first request that brings the cookie.
    FirstUse,
    /// As `FirstUse`; sessions of admins and auditors at log-in.
    Strict,
    /// At log-in, every session.
    Always,
    /// Never: the cookie is ignored.
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Pretty,
    Json,
}

/// One variable of the environment.
pub struct Variable {
    pub name: &'static str,
    /// Empty when there is none.
    pub default: &'static str,
    pub help: &'static str,
    /// It may also be given as NAME_FILE, the path of a file that holds it.
    pub secret: bool,
}

const fn plain(name: &'static str, default: &'static str, help: &'static str) -> Variable {
    Variable { name, default, help, secret: false }
}

const fn secret(name: &'static str, default: &'static str, help: &'static str) -> Variable {
    Variable { name, default, help, secret: true }
}

/// Every variable that is read, in the order in which `--help` lists them.
pub const VARIABLES: [Variable; 19] = [
    secret("DATABASE_URL", "", "PostgreSQL: postgres://user:password@host:port/database"),
    secret("CUSTOMERS_OWNER_DATABASE_URL", "", "who migrates; default DATABASE_URL"),
    secret("DATABASE_READ_URL", "", "a replica that answers reads while it is there (optional)"),
    secret(
        "REDIS_URL",
        "",
        "Redis: redis://user:password@host:port/0; with commas: nodes of a cluster",
    ),
    plain("CUSTOMERS_REDIS_PREFIX", "customers", "the first part of every Redis key"),
    plain("CUSTOMERS_LISTEN", "127.0.0.1:8080", "address and port to listen on"),
    plain("CUSTOMERS_PUBLIC_URL", "", "how clients reach it; default http://LISTEN"),
    plain("CUSTOMERS_KEYS_DIR", "./.customers/keys", "signing keys; the first is made at start"),
    plain("CUSTOMERS_TOKEN_TTL", "1h", "how long a log-in lasts: 90s, 15m, 1h; 24h at most"),
    plain("CUSTOMERS_COOKIE_BINDING", "first-use", "first-use, strict, always or off"),
    plain("CUSTOMERS_SESSION_LIMIT", "0", "live sessions per account; 0 = no limit"),
    plain("CUSTOMERS_ACCOUNT_LIMIT", "1000", "requests/s per account; 0 = off, as in dev"),
    plain("CUSTOMERS_RATE_LIMIT", "1000", "requests/s per client address; 0 = off, as in dev"),
    plain("CUSTOMERS_LOGIN_LIMIT", "10", "failed log-ins/min per account and address; 0 = off"),
    plain("CUSTOMERS_TRUSTED_PROXIES", "", "comma-separated CIDRs of the proxies in front"),
    plain(
        "CUSTOMERS_CORS_ORIGINS",
        "",
        "comma-separated origins of pages that may ask; none if empty",
    ),
    plain("CUSTOMERS_LOG", "info", "what to log: off, error, warn, info, debug, or directives"),
    plain("CUSTOMERS_LOG_FORMAT", "pretty", "pretty or json"),
    plain("OTEL_EXPORTER_OTLP_ENDPOINT", "", "where to send traces (not used yet)"),
];

/// The longest life of a token: what a log-out has to be remembered for.
const TOKEN_TTL_MAX: Duration = Duration::from_hours(24);

/// A variable with a value that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{variable}: {problem}")]
pub struct ConfigError {
    pub variable: &'static str,
    pub problem: String,
}

impl Config {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// Names the first variable whose value cannot be used.
    pub fn from_env() -> Result<Self, ConfigError> {
        check_environment()?;
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// Reads from any place. An empty value counts as unset.
    ///
    /// # Errors
    /// Names the first variable whose value cannot be used.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let values = read_all(lookup)?;
        let text = |name: &str| values.get(name).cloned().unwrap_or_default();
        let optional = |name: &str| values.get(name).cloned().filter(|value| !value.is_empty());
        let secret = |name: &str| optional(name).map(SecretString::from);
        Ok(Self {
            database_url: url(secret("DATABASE_URL"), "DATABASE_URL", &["postgres", "postgresql"])?,
            owner_database_url: url(
                secret("CUSTOMERS_OWNER_DATABASE_URL"),
                "CUSTOMERS_OWNER_DATABASE_URL",
                &["postgres", "postgresql"],
            )?,
            read_database_url: url(
                secret("DATABASE_READ_URL"),
                "DATABASE_READ_URL",
                &["postgres", "postgresql"],
            )?,
            redis_url: url(secret("REDIS_URL"), "REDIS_URL", &["redis"])?,
            redis_prefix: prefix(&text("CUSTOMERS_REDIS_PREFIX"))?,
            listen: parse(
                &text("CUSTOMERS_LISTEN"),
                "CUSTOMERS_LISTEN",
                "an address like 127.0.0.1:8080",
            )?,
            public_url: public_url(optional("CUSTOMERS_PUBLIC_URL"))?,
            keys_dir: PathBuf::from(text("CUSTOMERS_KEYS_DIR")),
            token_ttl: token_ttl(&text("CUSTOMERS_TOKEN_TTL"))?,
            cookie_binding: cookie_binding(&text("CUSTOMERS_COOKIE_BINDING"))?,
            session_limit: number(&text("CUSTOMERS_SESSION_LIMIT"), "CUSTOMERS_SESSION_LIMIT")?,
            account_limit: number(&text("CUSTOMERS_ACCOUNT_LIMIT"), "CUSTOMERS_ACCOUNT_LIMIT")
                .and_then(|limit| per_second(limit, "CUSTOMERS_ACCOUNT_LIMIT"))?,
            rate_limit: number(&text("CUSTOMERS_RATE_LIMIT"), "CUSTOMERS_RATE_LIMIT")
                .and_then(|limit| per_second(limit, "CUSTOMERS_RATE_LIMIT"))?,
            login_limit: number(&text("CUSTOMERS_LOGIN_LIMIT"), "CUSTOMERS_LOGIN_LIMIT")?,
            trusted_proxies: list(&text("CUSTOMERS_TRUSTED_PROXIES"))
                .map(|cidr| cidr_of(&cidr))
                .collect::<Result<_, _>>()?,
            cors_origins: list(&text("CUSTOMERS_CORS_ORIGINS"))
                .map(|origin| origin_of(&origin))
                .collect::<Result<_, _>>()?,
            log: log_directives(text("CUSTOMERS_LOG"))?,
            log_format: log_format(&text("CUSTOMERS_LOG_FORMAT"))?,
            otlp_endpoint: optional("OTEL_EXPORTER_OTLP_ENDPOINT"),
        })
    }

    /// How clients reach the service, without a slash at the end; also the tokens' issuer.
    #[must_use]
    pub fn public_url(&self) -> String {
        self.public_url.clone().unwrap_or_else(|| {
            let mut listen = self.listen;
            if listen.ip().is_unspecified() {
                listen.set_ip(Ipv4Addr::LOCALHOST.into());
            }
            format!("http://{listen}")
        })
    }

    /// Whether clients come over https, so that cookies can be kept to it.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.public_url.as_deref().is_some_and(|url| url.starts_with("https://"))
    }
}

/// A value that is not UTF-8 must not count as unset: it may have been meant to close something.
///
/// # Errors
/// Names the first such variable.
pub fn check_environment() -> Result<(), ConfigError> {
    let broken = |name: &str| std::env::var_os(name).is_some_and(|value| value.to_str().is_none());
    for variable in &VARIABLES {
        if broken(variable.name) || broken(&format!("{}_FILE", variable.name)) {
            return Err(bad(variable.name, "must be UTF-8"));
        }
    }
    Ok(())
}

/// Every variable's value: from the lookup, from the file that NAME_FILE names, or the default.
fn read_all(
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<HashMap<&'static str, String>, ConfigError> {
    let mut values = HashMap::new();
    let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
    for variable in &VARIABLES {
        let file = if variable.secret { set(&format!("{}_FILE", variable.name)) } else { None };
        let value = match (set(variable.name), file) {
            (Some(value), _) => value,
            (None, Some(path)) => std::fs::read_to_string(&path)
                .map_err(|error| bad(variable.name, format!("cannot read {path}: {error}")))?
                .trim_end_matches(['\n', '\r'])
                .to_owned(),
            (None, None) => variable.default.to_owned(),
        };
        values.insert(variable.name, value);
    }
    Ok(values)
}

fn bad(variable: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError { variable, problem: problem.into() }
}

fn parse<T: std::str::FromStr>(
    text: &str,
    variable: &'static str,
    shape: &str,
) -> Result<T, ConfigError> {
    text.parse().map_err(|_| bad(variable, format!("must be {shape}")))
}

fn number(text: &str, variable: &'static str) -> Result<u32, ConfigError> {
    parse(text, variable, "a whole number, 0 or more")
}

fn per_second(limit: u32, variable: &'static str) -> Result<u32, ConfigError> {
    if limit > 1_000_000 { Err(bad(variable, "must be at most 1000000")) } else { Ok(limit) }
}

fn list(text: &str) -> impl Iterator<Item = String> {
    text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty())
}

fn url(
    value: Option<SecretString>,
    variable: &'static str,
    schemes: &[&str],
) -> Result<Option<SecretString>, ConfigError> {
    use secrecy::ExposeSecret as _;
    let Some(value) = value else { return Ok(None) };
    let known = value
        .expose_secret()
        .split_once("://")
        .is_some_and(|(scheme, rest)| schemes.contains(&scheme) && !rest.is_empty());
    if known {
        Ok(Some(value))
    } else {
        Err(bad(variable, format!("must be a URL that starts with {}://", schemes[0])))
    }
}

fn prefix(text: &str) -> Result<String, ConfigError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    if !text.is_empty() && text.len() <= 64 && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err(bad("CUSTOMERS_REDIS_PREFIX", "must be 1 to 64 letters, digits, or any of - _ . :"))
    }
}

fn public_url(value: Option<String>) -> Result<Option<String>, ConfigError> {
    let Some(url) = value else { return Ok(None) };
    let url = url.trim_end_matches('/');
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    if host.is_some_and(|host| {
        !host.is_empty() && !host.contains(['?', '#']) && host.chars().all(|c| c.is_ascii_graphic())
    }) {
        Ok(Some(url.to_owned()))
    } else {
        Err(bad("CUSTOMERS_PUBLIC_URL", "must start with http:// or https://"))
    }
}

fn token_ttl(text: &str) -> Result<Duration, ConfigError> {
    let ttl = humantime::parse_duration(text)
        .map_err(|_| bad("CUSTOMERS_TOKEN_TTL", "must be a duration like 90s, 15m or 1h"))?;
    if ttl < Duration::from_secs(1) || ttl > TOKEN_TTL_MAX || ttl.subsec_nanos() != 0 {
        return Err(bad("CUSTOMERS_TOKEN_TTL", "must be whole seconds, from 1s to 24h"));
    }
    Ok(ttl)
}

fn cookie_binding(text: &str) -> Result<CookieBinding, ConfigError> {
    match text {
        "first-use" => Ok(CookieBinding::FirstUse),
        "strict" => Ok(CookieBinding::Strict),
        "always" => Ok(CookieBinding::Always),
        "off" => Ok(CookieBinding::Off),
        _ => Err(bad("CUSTOMERS_COOKIE_BINDING", "must be first-use, strict, always or off")),
    }
}

/// A CIDR, or a single address.
fn cidr_of(text: &str) -> Result<IpNet, ConfigError> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
        .map_err(|_| bad("CUSTOMERS_TRUSTED_PROXIES", format!("{text} is not a CIDR")))
}

/// An origin as browsers write it (RFC 6454, section 6.2): no path, and not all of them, as answers to
/// pages may carry a cookie.
fn origin_of(text: &str) -> Result<String, ConfigError> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-:[]".contains(c);
    if host.is_some_and(|host| !host.is_empty() && host.chars().all(plain)) {
        Ok(text.to_owned())
    } else {
        Err(bad("CUSTOMERS_CORS_ORIGINS", format!("{text} is no origin like https://example.com")))
    }
}

fn log_directives(text: String) -> Result<String, ConfigError> {
    match tracing_subscriber::EnvFilter::try_new(&text) {
        Ok(_) => Ok(text),
        Err(_) => Err(bad("CUSTOMERS_LOG", "must be off, error, warn, info, debug or directives")),
    }
}

fn log_format(text: &str) -> Result<LogFormat, ConfigError> {
    match text {
        "pretty" => Ok(LogFormat::Pretty),
        "json" => Ok(LogFormat::Json),
        _ => Err(bad("CUSTOMERS_LOG_FORMAT", "must be pretty or json")),
    }
}
