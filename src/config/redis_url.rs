//! `REDIS_URL`: one Redis, the nodes of a cluster, or the Sentinels that know the master.
//!
//! An error names what is wrong and never repeats a part of the URL, except the plain name of a parameter.

use std::fmt;
use std::path::PathBuf;

use secrecy::SecretString;

use crate::server_url::{self, ENCODE, Parameter, UrlParts, decode};

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// The schemes, each with its kind and whether the connection is encrypted.
const SCHEMES: [(&str, Kind, bool); 9] = [
    ("redis", Kind::Tcp, false),
    ("rediss", Kind::Tcp, true),
    ("valkey", Kind::Tcp, false),
    ("valkeys", Kind::Tcp, true),
    ("redis+sentinel", Kind::Sentinel, false),
    ("rediss+sentinel", Kind::Sentinel, true),
    ("unix", Kind::Unix, false),
    ("redis+unix", Kind::Unix, false),
    ("valkey+unix", Kind::Unix, false),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Sentinel,
    Unix,
}

/// A parsed `REDIS_URL`.
#[derive(Clone)]
pub struct RedisUrl {
    pub topology: Topology,
    pub is_tls: bool,
    pub username: Option<String>,
    pub password: Option<SecretString>,
    pub database: i64,
    /// `?protocol=resp3`
    pub is_resp3: bool,
}

/// Where the data is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    One(Host),
    Socket(PathBuf),
    Cluster(Vec<Host>),
    Sentinels { sentinels: Vec<Host>, master: String },
}

impl fmt::Display for Topology {
    /// Where it is, without user and password, for log lines.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |hosts: &[Host]| {
            let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
            hosts.join(",")
        };
        match self {
            Self::One(host) => host.fmt(formatter),
            Self::Socket(path) => path.display().fmt(formatter),
            Self::Cluster(nodes) => list(nodes).fmt(formatter),
            Self::Sentinels { sentinels, master } => {
                write!(formatter, "{master} of sentinels {}", list(sentinels))
            }
        }
    }
}

/// A host name or address (IPv6 without brackets), and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub name: String,
    pub port: u16,
}

impl fmt::Display for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.name, self.port)
    }
}

impl RedisUrl {
    /// Parses one URL, or several of the same scheme and credentials, separated by commas: the nodes of a
    /// cluster.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut urls = split_urls(text).into_iter();
        let mut url = Self::parse_one(urls.next().unwrap_or_default())?;
        for node in urls {
            url.add_node(Self::parse_one(node)?)?;
        }
        if matches!(url.topology, Topology::Cluster(_)) && url.database != 0 {
            return Err(
                "a Redis Cluster has no database but 0: end each URL with /0 or nothing".to_owned()
            );
        }
        Ok(url)
    }

    fn parse_one(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or_default();
        let Some(&(_, kind, is_tls)) = SCHEMES.iter().find(|(name, ..)| *name == scheme) else {
            return Err("must be a URL that starts with redis://, rediss://, redis+sentinel://, \
                        rediss+sentinel://, unix:// or redis+unix://"
                .to_owned());
        };
        if rest.contains('#') {
            return Err(format!("must have no fragment (#): {ENCODE}"));
        }
        let parts = match kind {
            Kind::Unix => UrlParts::split_socket(rest)?,
            Kind::Tcp | Kind::Sentinel => UrlParts::split(rest)?,
        };
        let (username, password) = credentials(&parts)?;
        let mut url = Self {
            topology: Topology::Socket(PathBuf::new()),
            is_tls,
            username,
            password,
            database: 0,
            is_resp3: false,
        };
        match kind {
            Kind::Unix => url.set_socket(parts.hosts, parts.path)?,
            Kind::Tcp => url.set_hosts(parts.hosts, parts.path)?,
            Kind::Sentinel => url.set_sentinels(parts.hosts, parts.path)?,
        }
        for parameter in parts.parameters()? {
            url.set_parameter(parameter, kind)?;
        }
        Ok(url)
    }

    fn set_socket(&mut self, hosts: &str, path: &str) -> Result<(), String> {
        if !hosts.is_empty() || path.len() < 2 {
            return Err("must name the path of a socket, as in unix:///run/redis.sock".to_owned());
        }
        self.topology = Topology::Socket(decode(path)?.into());
        Ok(())
    }

    fn set_hosts(&mut self, hosts: &str, path: &str) -> Result<(), String> {
        let mut hosts = parse_hosts(hosts, REDIS_PORT)?;
        self.database = parse_database(path.strip_prefix('/').unwrap_or_default())?;
        self.topology = match hosts.len() {
            1 => Topology::One(hosts.remove(0)),
            _ => Topology::Cluster(hosts),
        };
        Ok(())
    }

    fn set_sentinels(&mut self, hosts: &str, path: &str) -> Result<(), String> {
        let sentinels = parse_hosts(hosts, SENTINEL_PORT)?;
        let path = path.strip_prefix('/').unwrap_or_default();
        let (master, database) = path.split_once('/').unwrap_or((path, ""));
        if master.is_empty() {
            let form = "redis+sentinel://host:26379,host:26379/NAME/0";
            return Err(format!("must name the master after the Sentinels, as in {form}"));
        }
        self.database = parse_database(database)?;
        self.topology = Topology::Sentinels { sentinels, master: decode(master)? };
        Ok(())
    }

    fn set_parameter(&mut self, parameter: Parameter, kind: Kind) -> Result<(), String> {
        let shown = parameter.shown().map(str::to_owned);
        let Parameter { name, value, .. } = parameter;
        match name.as_str() {
            "protocol" => {
                self.is_resp3 = match value.as_str() {
                    "resp2" | "2" => false,
                    "resp3" | "3" => true,
                    _ => return Err("the parameter protocol must be resp2 or resp3".to_owned()),
                }
            }
            "db" if kind == Kind::Unix => self.database = parse_database(&value)?,
            "user" if kind == Kind::Unix => self.username = Some(value),
            "pass" | "password" if kind == Kind::Unix => self.password = Some(value.into()),
            _ => {
                let Some(name) = shown else {
                    return Err(format!("has an unknown parameter: {ENCODE}"));
                };
                let advice = if TLS_PARAMETERS.iter().any(|tls| name.contains(tls)) {
                    ": certificates are configured by CUSTOMERS_REDIS_CA, CUSTOMERS_REDIS_CERT and \
                     CUSTOMERS_REDIS_KEY"
                } else {
                    ""
                };
                return Err(format!("has an unknown parameter {name}{advice}"));
            }
        }
        Ok(())
    }

    fn add_node(&mut self, node: Self) -> Result<(), String> {
        use secrecy::ExposeSecret as _;
        let password = |of: &Self| of.password.as_ref().map(|word| word.expose_secret().to_owned());
        if self.username != node.username || password(self) != password(&node) {
            return Err(
                "the nodes of a cluster must have the same user name and password".to_owned()
            );
        }
        if (self.is_tls, self.is_resp3) != (node.is_tls, node.is_resp3) {
            return Err("the nodes of a cluster must have the same scheme and protocol".to_owned());
        }
        self.database = self.database.max(node.database);
        let mut nodes = std::mem::replace(&mut self.topology, Topology::Cluster(vec![])).nodes()?;
        nodes.extend(node.topology.nodes()?);
        self.topology = Topology::Cluster(nodes);
        Ok(())
    }
}

impl Topology {
    fn nodes(self) -> Result<Vec<Host>, String> {
        match self {
            Self::One(host) => Ok(vec![host]),
            Self::Cluster(hosts) => Ok(hosts),
            Self::Socket(_) | Self::Sentinels { .. } => {
                Err("only nodes of a cluster (redis:// or rediss://) may be listed".to_owned())
            }
        }
    }
}

/// What the parameters of other clients for certificates have in their names.
const TLS_PARAMETERS: [&str; 4] = ["ssl", "tls", "cert", "insecure"];

/// Splits before each further scheme; a comma elsewhere belongs to a list of hosts.
fn split_urls(text: &str) -> Vec<&str> {
    let is_start = |at: usize| {
        SCHEMES.iter().any(|(name, ..)| {
            text[at + 1..].strip_prefix(name).is_some_and(|rest| rest.starts_with("://"))
        })
    };
    let mut urls = vec![];
    let mut start = 0;
    for (at, _) in text.match_indices(',').filter(|(at, _)| is_start(*at)) {
        urls.push(&text[start..at]);
        start = at + 1;
    }
    urls.push(&text[start..]);
    urls
}

/// `user:password`, `:password`, or `user` for a user without a password.
fn credentials(parts: &UrlParts<'_>) -> Result<(Option<String>, Option<SecretString>), String> {
    let username = Some(decode(parts.user)?).filter(|name| !name.is_empty());
    let password = decode(parts.password.unwrap_or_default())?;
    // A user without a password accepts any.
    let is_given = username.is_some() || !password.is_empty();
    Ok((username, is_given.then(|| password.into())))
}

fn parse_hosts(text: &str, default_port: u16) -> Result<Vec<Host>, String> {
    let host = |(name, port): server_url::HostAndPort| {
        if name.is_empty() {
            return Err("must name a host".to_owned());
        }
        Ok(Host { name, port: port.unwrap_or(default_port) })
    };
    server_url::hosts(text)?.into_iter().map(host).collect()
}

fn parse_database(text: &str) -> Result<i64, String> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let number = if text.is_empty() { Some(0) } else { text.parse::<u16>().ok() };
    let error = || format!("must end with the number of a database, as in /0: {ENCODE}");
    number.map(i64::from).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn host(name: &str, port: u16) -> Host {
        Host { name: name.to_owned(), port }
    }

    fn parsed(text: &str) -> (Topology, Option<String>, Option<String>, i64) {
        let url = RedisUrl::parse(text).unwrap();
        let password = url.password.map(|password| password.expose_secret().to_owned());
        (url.topology, url.username, password, url.database)
    }

    #[test]
    fn every_form_of_the_url_is_read() {
        let some = |text: &str| Some(text.to_owned());
        let local = || Topology::One(host("localhost", 6379));
        assert_eq!(parsed("redis://localhost"), (local(), None, None, 0));
        assert_eq!(parsed("rediss://:p@localhost:6379/3"), (local(), None, some("p"), 3));
        assert_eq!(parsed("redis://u@localhost/"), (local(), some("u"), some(""), 0));
        let six = Topology::One(host("::1", 7000));
        assert_eq!(parsed("redis://u:p@[::1]:7000/0"), (six, some("u"), some("p"), 0));
        let word = "redis://%C3%BCser:%40%3A%2F%3F%23%25%2C+%20@localhost";
        assert_eq!(parsed(word), (local(), some("üser"), some("@:/?#%,+ "), 0));
        // An @ and a : need no encoding in a password.
        assert_eq!(parsed("redis://u:a@b:c@localhost"), (local(), some("u"), some("a@b:c"), 0));
        let socket = Topology::Socket("/run/a b.sock".into());
        assert_eq!(parsed("unix:///run/a%20b.sock"), (socket.clone(), None, None, 0));
        let url = "redis+unix://u:p@/run/a b.sock?db=2";
        assert_eq!(parsed(url), (socket.clone(), some("u"), some("p"), 2));
        let url = "unix:///run/a b.sock?db=2&user=u&pass=%26";
        assert_eq!(parsed(url), (socket, some("u"), some("&"), 2));
        let nodes = Topology::Cluster(vec![host("a", 1), host("b", 6379)]);
        assert_eq!(
            parsed("redis://u:p@a:1,redis://u:p@b"),
            (nodes.clone(), some("u"), some("p"), 0)
        );
        assert_eq!(parsed("redis://u:p@a:1,b/0"), (nodes, some("u"), some("p"), 0));
        let sentinels = vec![host("a", 26379), host("::1", 5)];
        let sentinels = Topology::Sentinels { sentinels, master: "mymaster".to_owned() };
        let url = "redis+sentinel://u:p@a,[::1]:5/mymaster/4";
        assert_eq!(parsed(url), (sentinels, some("u"), some("p"), 4));
        assert!(RedisUrl::parse("rediss+sentinel://a/m").unwrap().is_tls);
        assert!(RedisUrl::parse("redis://a?protocol=resp3").unwrap().is_resp3);
    }

    #[test]
    fn what_is_not_understood_is_refused_and_never_repeated() {
        for (url, expected) in [
            ("http://hidden", "must be a URL that starts with redis://"),
            ("redis:hidden", "must be a URL that starts with redis://"),
            ("redis://", "must name a host"),
            ("redis://:hidden@/0", "must name a host"),
            ("redis://u:hid/den@h", "has an @ after a /"),
            ("redis://u:1/hidden", "must end with the number of a database"),
            ("redis://u:hid?den@h", "has an @ after a ?"),
            ("redis://u:hid#den@h", "must have no fragment"),
            ("redis://u:hid%den@h", "has a % that begins no encoded character"),
            ("redis://u:%FFhidden@h", "has a % that begins no encoded character"),
            ("redis://h:hidden", "must have a port"),
            ("redis://h:0", "must have a port"),
            ("redis://[hidden]", "must have an IPv6 address"),
            ("redis://h/hidden", "must end with the number of a database"),
            ("redis://h/-1", "must end with the number of a database"),
            ("redis://h?timeout=hidden", "has an unknown parameter timeout"),
            ("redis://h?db=3", "has an unknown parameter db"),
            ("rediss://h?ssl_ca_certs=hidden", "configured by CUSTOMERS_REDIS_CA"),
            ("redis://h?HIDDEN9=1", "has an unknown parameter: percent-encode"),
            ("unix:///s?pass=a&hidden=1", "has an unknown parameter: percent-encode"),
            ("redis://u:hid%00den@h", "has a % that begins no encoded character"),
            ("redis://h?protocol=hidden", "the parameter protocol must be resp2 or resp3"),
            ("redis+sentinel://h", "must name the master"),
            ("redis+sentinel://h/m/hidden", "must end with the number of a database"),
            ("unix://hidden", "must name the path of a socket"),
            ("redis://a/1,redis://b/1", "a Redis Cluster has no database but 0"),
            ("redis://a,b/1", "a Redis Cluster has no database but 0"),
            ("redis://a,rediss://b", "the same scheme"),
            ("redis://:hidden@a,redis://b", "the same user name and password"),
            ("redis://a,unix:///hidden", "only nodes of a cluster"),
        ] {
            let error = RedisUrl::parse(url).err().unwrap_or_else(|| panic!("{url} was accepted"));
            assert!(error.contains(expected), "{url}: {error}");
            assert!(!error.to_lowercase().contains("hid"), "{url}: {error}");
        }
    }
}
