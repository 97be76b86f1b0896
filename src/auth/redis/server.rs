//! What `REDIS_URL` and the variables beside it say about a Redis, and the clients of the crate that this
//! makes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::{
    ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion,
    RedisConnectionInfo, RedisError, TlsCertificates,
};
use secrecy::{ExposeSecret as _, SecretString};

use crate::config::redis_url::{Host, RedisUrl};
use crate::config::{Config, ConfigError};

/// The time limit of one call: two of them fit into the 500 ms after which a request that needs Redis
/// is answered 503.
pub(super) const CALL_LIMIT: Duration = Duration::from_millis(250);

/// How long a node of a cluster may take to return the slot map, before the next node is asked.
const NODE_LIMIT: Duration = Duration::from_millis(500);

/// How long connecting to a node of a cluster may take: calls for the other nodes wait meanwhile.
const CONNECT_LIMIT: Duration = Duration::from_millis(100);

/// A configured Redis. The files of certificates are read again for each new client, so that a certificate
/// can be renewed while the service runs.
pub(super) struct RedisServer {
    pub url: RedisUrl,
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    sentinel_user: Option<String>,
    sentinel_password: Option<SecretString>,
}

impl RedisServer {
    /// Reads the files of certificates once, so that a wrong one stops the start.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        let url = config.redis_url.as_ref();
        let url = url.ok_or_else(|| ConfigError::new("REDIS_URL", "is not set"))?;
        let url = RedisUrl::parse(url.expose_secret())
            .map_err(|problem| ConfigError::new("REDIS_URL", problem))?;
        let server = Self {
            url,
            ca: config.redis_ca.clone(),
            certificate: config.redis_cert.clone(),
            key: config.redis_key.clone(),
            sentinel_user: config.redis_sentinel_user.clone(),
            sentinel_password: config.redis_sentinel_password.clone(),
        };
        let files = [(CA, &server.ca), (CERT, &server.certificate), (KEY, &server.key)];
        if let Some((name, _)) = files.iter().find(|(_, file)| file.is_some() && !server.url.is_tls)
        {
            let problem = "is set, so REDIS_URL must start with rediss:// or rediss+sentinel://";
            return Err(ConfigError::new(*name, problem));
        }
        server.certificates()?;
        if server.url.is_tls {
            // The one that is compiled for PostgreSQL, too. An error means that it is installed already.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        Ok(server)
    }

    /// The client of one Redis.
    pub fn client(&self, host: &Host) -> Result<redis::Client, RedisError> {
        self.open(self.address(host), self.login())
    }

    /// The client of the Redis behind a socket.
    pub fn socket_client(&self, path: &Path) -> Result<redis::Client, RedisError> {
        self.open(ConnectionAddr::Unix(path.to_owned()), self.login())
    }

    /// The client of a Sentinel, which has users of its own.
    pub fn sentinel_client(&self, host: &Host) -> Result<redis::Client, RedisError> {
        let password = self.sentinel_password.as_ref();
        let login = login(self.sentinel_user.as_deref(), password, 0, false);
        self.open(self.address(host), login)
    }

    /// A client of the same Redis that does not log in, for a diagnosis.
    pub fn anonymous_client(&self, host: &Host) -> Result<redis::Client, RedisError> {
        self.open(self.address(host), login(None, None, 0, false))
    }

    /// The arguments of `AUTH`; empty without a password.
    pub fn auth_words(&self) -> Vec<String> {
        let password = self.url.password.as_ref().map(|word| word.expose_secret().to_owned());
        let name = password.as_ref().and(self.url.username.clone());
        name.into_iter().chain(password).collect()
    }

    pub fn cluster_client(&self, nodes: &[Host]) -> Result<ClusterClient, RedisError> {
        let nodes = nodes
            .iter()
            .map(|node| info(self.address(node), self.login()))
            .collect::<Result<Vec<_>, _>>()?;
        let mut builder = ClusterClientBuilder::new(nodes)
            .connection_timeout(CONNECT_LIMIT)
            .response_timeout(NODE_LIMIT)
            .retries(2)
            .min_retry_wait(20);
        if let Some(certificates) = self.certificates().map_err(unreadable)? {
            builder = builder.certs(certificates);
        }
        builder.build()
    }

    fn address(&self, Host { name: host, port }: &Host) -> ConnectionAddr {
        let (host, port) = (host.clone(), *port);
        if self.url.is_tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        }
    }

    fn login(&self) -> RedisConnectionInfo {
        let url = &self.url;
        login(url.username.as_deref(), url.password.as_ref(), url.database, url.is_resp3)
    }

    fn open(
        &self,
        address: ConnectionAddr,
        login: RedisConnectionInfo,
    ) -> Result<redis::Client, RedisError> {
        let info = info(address, login)?;
        match self.certificates().map_err(unreadable)? {
            Some(certificates) => redis::Client::build_with_tls(info, certificates),
            None => redis::Client::open(info),
        }
    }

    /// `None` without a file: the public authorities, and no certificate of the client.
    fn certificates(&self) -> Result<Option<TlsCertificates>, ConfigError> {
        let root_cert = read(CA, self.ca.as_deref(), "CERTIFICATE-----")?;
        let client_cert = read(CERT, self.certificate.as_deref(), "CERTIFICATE-----")?;
        let client_key = read(KEY, self.key.as_deref(), "PRIVATE KEY-----")?;
        let client_tls = match (client_cert, client_key) {
            (Some(client_cert), Some(client_key)) => {
                Some(ClientTlsConfig { client_cert, client_key })
            }
            (Some(_), None) => {
                return Err(ConfigError::new(KEY, "must be set with the certificate"));
            }
            (None, Some(_)) => return Err(ConfigError::new(CERT, "must be set with the key")),
            (None, None) => None,
        };
        let is_any = root_cert.is_some() || client_tls.is_some();
        Ok(is_any.then_some(TlsCertificates { client_tls, root_cert }))
    }
}

const CA: &str = "CUSTOMERS_REDIS_CA";
const CERT: &str = "CUSTOMERS_REDIS_CERT";
const KEY: &str = "CUSTOMERS_REDIS_KEY";

/// The content of a file that has a PEM block of this kind.
fn read(variable: &str, path: Option<&Path>, block: &str) -> Result<Option<Vec<u8>>, ConfigError> {
    let Some(path) = path else { return Ok(None) };
    let file = path.display();
    let content = std::fs::read(path)
        .map_err(|error| ConfigError::new(variable, format!("cannot read {file}: {error}")))?;
    let text = String::from_utf8_lossy(&content);
    if text.contains("ENCRYPTED PRIVATE KEY-----") {
        return Err(ConfigError::new(variable, format!("{file}: the key must have no passphrase")));
    }
    if !text.contains(block) {
        let problem = format!("{file} has no block -----BEGIN {block}");
        return Err(ConfigError::new(variable, problem));
    }
    Ok(Some(content))
}

fn unreadable(error: ConfigError) -> RedisError {
    RedisError::from(std::io::Error::other(error))
}

fn info(address: ConnectionAddr, login: RedisConnectionInfo) -> Result<ConnectionInfo, RedisError> {
    Ok(address.into_connection_info()?.set_redis_settings(login))
}

/// Without `CLIENT SETINFO`, which needs a permission of its own.
fn login(
    username: Option<&str>,
    password: Option<&SecretString>,
    database: i64,
    is_resp3: bool,
) -> RedisConnectionInfo {
    let mut login = RedisConnectionInfo::default().set_db(database).set_skip_set_lib_name();
    if is_resp3 {
        login = login.set_protocol(ProtocolVersion::RESP3);
    }
    if let Some(username) = username {
        login = login.set_username(username);
    }
    if let Some(password) = password {
        login = login.set_password(password.expose_secret());
    }
    login
}

/// Connects on the first call. The time limit of an answer is that of the call.
pub(super) fn manager(client: redis::Client) -> Result<ConnectionManager, RedisError> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(CALL_LIMIT))
        .set_response_timeout(None)
        .set_number_of_retries(1)
        .set_min_delay(Duration::from_millis(20));
    ConnectionManager::new_lazy_with_config(client, config)
}
