//! Starts and stops the servers of one folder.

use tokio::time::Instant;

use super::error::StartError;
use super::folder::Folder;
use super::options::{Options, STOP_LIMIT};
use super::running::Running;
use super::{postgres, redis};

/// The running servers of one folder. `stop` stops them and waits; a drop stops them without waiting.
pub struct Servers {
    postgres: Option<Running>,
    redis: Option<Running>,
    /// Its lock keeps other processes from the folder until the servers have ended.
    _folder: Folder,
}

impl Servers {
    /// Starts the wanted servers and returns once a connection to each works, in bounded time. Data of
    /// an earlier start in the same folder is kept; addresses and the Redis password are new. After an
    /// error no server keeps running.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let folder = Folder::open(&options.folder).await?;
        let (postgres_secret, redis_secret) = options.secret.split_at(16);
        let (postgres, redis) = tokio::join!(
            start_if(options.postgres, postgres::start(&folder, postgres_secret, &options)),
            start_if(options.redis, redis::start(&folder, redis_secret)),
        );
        match (postgres, redis) {
            (Ok(postgres), Ok(redis)) => Ok(Self { postgres, redis, _folder: folder }),
            (Err(error), other) | (other, Err(error)) => {
                stop_all([other.ok().flatten(), None]).await;
                Err(error)
            }
        }
    }

    /// `postgres://customers:PASSWORD@127.0.0.1:PORT/customers`, if PostgreSQL was wanted.
    #[must_use]
    pub fn database_url(&self) -> Option<&str> {
        self.postgres.as_ref().map(|running| running.url.as_str())
    }

    /// `redis://:PASSWORD@127.0.0.1:PORT/0`, if Redis was wanted.
    #[must_use]
    pub fn redis_url(&self) -> Option<&str> {
        self.redis.as_ref().map(|running| running.url.as_str())
    }

    /// Stops both servers at the same time, gracefully and then by force; returns within `STOP_LIMIT`.
    pub async fn stop(self) {
        stop_all([self.postgres, self.redis]).await;
    }
}

async fn start_if(
    wanted: bool,
    start: impl Future<Output = Result<Running, StartError>>,
) -> Result<Option<Running>, StartError> {
    if wanted { start.await.map(Some) } else { Ok(None) }
}

async fn stop_all(servers: [Option<Running>; 2]) {
    let deadline = Instant::now() + STOP_LIMIT;
    let [first, second] = servers.map(|running| async move {
        if let Some(running) = running {
            running.process.stop(deadline).await;
        }
    });
    tokio::join!(first, second);
}
