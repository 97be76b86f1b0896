//! Configuration: read once, from the environment only. The error for an invalid value is one line that
//! names its variable. Secrets are never printed.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue};
use clap::{ArgAction, CommandFactory as _, FromArgMatches as _, Parser};
use ipnet::IpNet;
use secrecy::SecretString;

/// The forms of `REDIS_URL`.
pub mod redis_url;

/// Values that are one of a few words.
mod choices;

/// The parsers of the variables' values.
mod parsers;

pub use self::choices::{CookieBinding, LogFormat};

/// Everything that can be configured: one field, with variable, default, parser and help, per variable.
/// A secret (`hide_env_values`) may also be given as `NAME_FILE`, the path of a file that holds it.
// A field of type `std::vec::Vec` is one value to clap; a `Vec` would be one per element.
#[derive(Debug, Clone, Parser)]
#[command(disable_help_flag = true, no_binary_name = true)]
pub struct Config {
    /// PostgreSQL: postgres://user:password@host:port/database
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_parser = parsers::postgres_url)]
    pub database_url: Option<SecretString>,
    /// the owner of the schema, for migrate; default DATABASE_URL
    #[arg(long, env = "CUSTOMERS_OWNER_DATABASE_URL", hide_env_values = true, value_parser = parsers::postgres_url)]
    pub owner_database_url: Option<SecretString>,
    /// the same database behind a pooler in transaction mode, for reads and log-ins (optional)
    #[arg(long, env = "DATABASE_POOL_URL", hide_env_values = true, value_parser = parsers::postgres_url)]
    pub pool_database_url: Option<SecretString>,
    /// a replica that serves reads while it is available (optional)
    #[arg(long, env = "DATABASE_READ_URL", hide_env_values = true, value_parser = parsers::postgres_url)]
    pub read_database_url: Option<SecretString>,
    /// how far the replica may lag before reads leave it: 500ms, 30s, 5m
    #[arg(long, env = "CUSTOMERS_REPLICA_MAX_LAG", default_value = "30s", value_parser = parsers::duration)]
    pub replica_max_lag: Duration,
    /// Redis: redis://user:password@host:port/0 (TLS: rediss://); nodes of a cluster with commas;
    /// redis+sentinel://user:password@host:26379,host:26379/master/0; unix:///path
    #[arg(long, env = "REDIS_URL", hide_env_values = true, value_parser = parsers::redis_url)]
    pub redis_url: Option<SecretString>,
    /// the certificates that sign that of Redis, a PEM file (rediss); default the public authorities
    #[arg(long, env = "CUSTOMERS_REDIS_CA")]
    pub redis_ca: Option<PathBuf>,
    /// the certificate that this client shows to Redis, a PEM file (rediss)
    #[arg(long, env = "CUSTOMERS_REDIS_CERT")]
    pub redis_cert: Option<PathBuf>,
    /// the private key of that certificate, a PEM file
    #[arg(long, env = "CUSTOMERS_REDIS_KEY")]
    pub redis_key: Option<PathBuf>,
    /// the user at the Sentinels, if they have users
    #[arg(long, env = "CUSTOMERS_REDIS_SENTINEL_USER")]
    pub redis_sentinel_user: Option<String>,
    /// the password at the Sentinels, if they have one
    #[arg(long, env = "CUSTOMERS_REDIS_SENTINEL_PASSWORD", hide_env_values = true)]
    pub redis_sentinel_password: Option<SecretString>,
    /// the first part of every Redis key
    #[arg(long, env = "CUSTOMERS_REDIS_PREFIX", default_value = "customers", value_parser = parsers::prefix)]
    pub redis_prefix: String,
    /// address and port to listen on
    #[arg(long, env = "CUSTOMERS_LISTEN", default_value = "127.0.0.1:8080", value_parser = parsers::address)]
    pub listen: SocketAddr,
    /// the URL of the service for clients; default http://LISTEN
    // The default is in `Config::public_url`.
    #[arg(long, env = "CUSTOMERS_PUBLIC_URL", value_parser = parsers::public_url)]
    pub public_url: Option<String>,
    /// the folder of the signing keys; the first key is created at start
    #[arg(long, env = "CUSTOMERS_KEYS_DIR", default_value = "./.customers/keys")]
    pub keys_dir: PathBuf,
    /// the folder for spool files of imports and long lists; default the system's temporary folder (TMPDIR)
    #[arg(long, env = "CUSTOMERS_SPOOL_DIR", value_parser = parsers::folder)]
    pub spool_dir: Option<PathBuf>,
    /// how many bytes the spool files of this process may have: 512MiB, 4GiB
    #[arg(long, env = "CUSTOMERS_SPOOL_LIMIT", default_value = "4GiB", value_parser = parsers::bytes)]
    pub spool_limit: u64,
    /// how long a log-in lasts: 90s, 15m, 1h; 24h at most
    #[arg(long, env = "CUSTOMERS_TOKEN_TTL", default_value = "1h", value_parser = parsers::token_ttl)]
    pub token_ttl: Duration,
    /// first-use, strict, always or off
    #[arg(long, env = "CUSTOMERS_COOKIE_BINDING", default_value = "first-use", value_parser = parsers::cookie_binding)]
    pub cookie_binding: CookieBinding,
    /// live sessions per account, 1 to 1000; the oldest ends
    #[arg(long, env = "CUSTOMERS_SESSION_LIMIT", default_value = "100", value_parser = parsers::sessions)]
    pub session_limit: u32,
    /// log-ins/min that open a session, per account, over all processes; 0 = off, as in dev
    #[arg(long, env = "CUSTOMERS_SESSION_RATE", default_value = "30", value_parser = parsers::per_second)]
    pub session_rate: u32,
    /// requests/s per account, over all processes; 0 = off, as in dev
    #[arg(long, env = "CUSTOMERS_ACCOUNT_LIMIT", default_value = "1000", value_parser = parsers::per_second)]
    pub account_limit: u32,
    /// requests/s per client address; 0 = off, as in dev
    #[arg(long, env = "CUSTOMERS_RATE_LIMIT", default_value = "1000", value_parser = parsers::per_second)]
    pub rate_limit: u32,
    /// failed log-ins/min per account and per address; 0 = off
    #[arg(long, env = "CUSTOMERS_LOGIN_LIMIT", default_value = "10", value_parser = parsers::number)]
    pub login_limit: u32,
    /// comma-separated CIDRs of trusted proxies
    #[arg(long, env = "CUSTOMERS_TRUSTED_PROXIES", default_value = "", value_parser = parsers::cidrs)]
    pub trusted_proxies: std::vec::Vec<IpNet>,
    /// comma-separated origins whose pages may call (CORS); none if empty
    #[arg(long, env = "CUSTOMERS_CORS_ORIGINS", default_value = "", value_parser = parsers::origins)]
    pub cors_origins: std::vec::Vec<String>,
    /// whether a change of a customer must name its version as If-Match, else it is refused (428): true or false
    #[arg(long, env = "CUSTOMERS_REQUIRE_IF_MATCH", default_value = "false", action = ArgAction::Set, value_parser = parsers::truth)]
    pub require_if_match: bool,
    /// how long a stopping process goes on serving, as not ready, before it closes its port: 0s to 5m
    #[arg(long, env = "CUSTOMERS_DRAIN_DELAY", default_value = "0s", value_parser = parsers::drain_delay)]
    pub drain_delay: Duration,
    /// log filter: off, error, warn, info, debug, or directives
    #[arg(long, env = "CUSTOMERS_LOG", default_value = "info", value_parser = parsers::log_directives)]
    pub log: String,
    /// pretty or json
    #[arg(long, env = "CUSTOMERS_LOG_FORMAT", default_value = "pretty", value_parser = parsers::log_format)]
    pub log_format: LogFormat,
    /// the collector for traces, OTLP over HTTP: http://host:4318 (optional)
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_parser = parsers::otlp_endpoint)]
    pub otlp_endpoint: Option<String>,
}

/// One environment variable, as `--help` lists it.
#[derive(Debug, Clone)]
pub struct Variable {
    pub name: String,
    pub default: Option<String>,
    pub help: String,
    /// May also be given as `NAME_FILE`.
    pub is_secret: bool,
}

/// Every variable, in the order of `--help`.
#[must_use]
pub fn variables() -> Vec<Variable> {
    let variable = |arg: &clap::Arg| {
        let default = arg.get_default_values().first().map(|text| text.to_string_lossy());
        Some(Variable {
            name: arg.get_env()?.to_str()?.to_owned(),
            default: default.filter(|text| !text.is_empty()).map(String::from),
            help: arg.get_help().map(ToString::to_string).unwrap_or_default(),
            is_secret: arg.is_hide_env_values_set(),
        })
    };
    Config::command().get_arguments().filter_map(variable).collect()
}

/// An environment variable with an invalid value.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{variable}: {problem}")]
pub struct ConfigError {
    pub variable: String,
    pub problem: String,
}

impl ConfigError {
    pub fn new(variable: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { variable: variable.into(), problem: problem.into() }
    }
}

impl Config {
    /// Reads from any source of variables. An empty value counts as unset.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let command = Self::command().mut_args(|arg| arg.env(Resettable::Reset));
        let mut arguments: Vec<OsString> = vec![];
        for (variable, arg) in variables().iter().zip(command.get_arguments()) {
            let Variable { name, is_secret, .. } = variable;
            let file = if *is_secret { set(&format!("{name}_FILE")) } else { None };
            let value = match (set(name), file) {
                (Some(value), _) => value,
                (None, Some(path)) => std::fs::read_to_string(&path)
                    .map_err(|error| {
                        ConfigError::new(name, format!("cannot read {path}: {error}"))
                    })?
                    .trim_end_matches(['\n', '\r'])
                    .to_owned(),
                (None, None) => continue,
            };
            if let Some(long) = arg.get_long() {
                arguments.push(format!("--{long}={value}").into());
            }
        }
        let matches = command.try_get_matches_from(arguments).map_err(|error| refused(&error))?;
        Self::from_arg_matches(&matches).map_err(|error| refused(&error))
    }

    /// The base URL of the service, without a slash at the end; also the tokens' issuer.
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

    /// Whether clients use https, so that cookies can be `Secure`.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.public_url.as_deref().is_some_and(|url| url.starts_with("https://"))
    }

    /// The path of the public URL, without a slash at its end; empty at the root of a host.
    #[must_use]
    pub fn public_path(&self) -> &str {
        self.public_url.as_deref().map_or("", path_of)
    }

    /// The folder of spool files.
    #[must_use]
    pub fn spool_dir(&self) -> PathBuf {
        self.spool_dir.clone().unwrap_or_else(std::env::temp_dir)
    }
}

/// The path of a public URL, which has neither a slash at its end nor a query; empty at the root of a host.
#[must_use]
pub fn path_of(public_url: &str) -> &str {
    let (_, host) = public_url.split_once("://").unwrap_or_default();
    host.find('/').map_or("", |at| &host[at..])
}

/// Fails if a variable is not UTF-8: it must not count as unset, because it may be meant as a restriction.
pub fn check_environment() -> Result<(), ConfigError> {
    let is_broken =
        |name: &str| std::env::var_os(name).is_some_and(|value| value.to_str().is_none());
    for Variable { name, .. } in variables() {
        if is_broken(&name) || is_broken(&format!("{name}_FILE")) {
            return Err(ConfigError::new(name, "must be UTF-8"));
        }
    }
    let text = |text: OsString| text.to_string_lossy().into_owned();
    let is_set = |name: &str| {
        [name, &format!("{name}_FILE")].iter().any(|name| std::env::var_os(name).is_some())
    };
    std::env::vars_os().try_for_each(|(name, value)| check_name(&text(name), &text(value), is_set))
}

/// The beginning of the names of the project's own tests.
const OF_TESTS: &str = "CUSTOMERS_TEST_";

/// Whether Kubernetes sets this variable, for a service whose name begins with `customers` (Kubernetes,
/// "Service: Environment variables").
fn is_of_kubernetes(name: &str, value: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_protocol = |text: &str| matches!(text, "TCP" | "UDP" | "SCTP");
    let words: Vec<&str> = name.split('_').skip(1).collect();
    match words.as_slice() {
        [.., "SERVICE", "HOST" | "PORT"] => true,
        // A program's own variable may be called so, but has no such value.
        [.., "PORT"] if value.contains("://") => true,
        [.., "PORT", port, protocol] | [.., "PORT", port, protocol, "ADDR" | "PORT" | "PROTO"]
            if is_number(port) && is_protocol(protocol) =>
        {
            true
        }
        // Followed by the name of the port.
        words => words.windows(3).any(|words| matches!(words, ["SERVICE", "PORT", _])),
    }
}

/// How many letters a misspelt name may differ by from one of ours, where other programs have names that
/// begin like it.
const MISSPELT_MAX: usize = 2;

/// Names that other programs use, each with that of ours beside which it is taken for theirs.
const OF_OTHERS: [(&str, &str); 2] = [("DATABASE_URI", "DATABASE_URL"), ("REDIS_URI", "REDIS_URL")];

/// Fails if the variable begins with `CUSTOMERS_` and is none of ours, or differs from one of ours by one or
/// two letters: a misspelt one must not count as unset, because it may be meant as a restriction.
fn check_name(name: &str, value: &str, is_set: impl Fn(&str) -> bool) -> Result<(), ConfigError> {
    let known: Vec<String> = variables()
        .into_iter()
        .flat_map(|variable| {
            let file = variable.is_secret.then(|| format!("{}_FILE", variable.name));
            [Some(variable.name), file]
        })
        .flatten()
        .collect();
    let is_foreign = name.starts_with(OF_TESTS) || is_of_kubernetes(name, value);
    if is_foreign || known.iter().any(|known| known == name) {
        return Ok(());
    }
    let nearest = if name.starts_with("CUSTOMERS_") {
        known
            .iter()
            .max_by(|a, b| strsim::jaro_winkler(name, a).total_cmp(&strsim::jaro_winkler(name, b)))
    } else {
        let distance = |known: &String| strsim::damerau_levenshtein(name, known);
        let is_of_others = OF_OTHERS.iter().any(|(other, ours)| *other == name && is_set(ours));
        known
            .iter()
            .min_by_key(|known| distance(known))
            .filter(|known| distance(known) <= MISSPELT_MAX && !is_of_others)
    };
    nearest.map_or(Ok(()), |nearest| {
        let problem = format!("is not a variable of this program; did you mean {nearest}?");
        Err(ConfigError::new(name, problem))
    })
}

/// The variable of a refused argument, and the problem that clap reports.
fn refused(error: &clap::Error) -> ConfigError {
    use std::error::Error as _;
    let argument = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(text)) => text.split(' ').next().unwrap_or_default(),
        _ => "",
    };
    let arg = Config::command();
    let arg = arg
        .get_arguments()
        .find(|arg| arg.get_long().is_some_and(|long| argument.strip_prefix("--") == Some(long)));
    let variable = arg.and_then(clap::Arg::get_env).map(|name| name.to_string_lossy());
    let problem = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    ConfigError::new(variable.unwrap_or_default(), problem)
}
