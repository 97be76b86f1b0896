//! The data of the private Postgres: made once, moved into place when whole, never made anew.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    error::StartError,
    folder::{Folder, remove_if_there},
    options::READY_LIMIT,
    programs,
    redis::hex,
    watchdog::{Log, Program, Watched},
};

pub const NAME: &str = "PostgreSQL";
const LOG: &str = "postgres.log";
const DATA: &str = "postgres";
const UNFINISHED: &str = "postgres.unfinished";
const PASSWORD: &str = "postgres.password";
/// Hands a program what must not be on its command line; removed after.
const INPUT: &str = "postgres.input";

/// How long making a cluster may take; it is a second on a laptop.
const INIT_LIMIT: Duration = Duration::from_mins(2);

pub struct Cluster<'a> {
    folder: &'a Folder,
    /// The folder of `postgres` and `initdb`.
    programs: PathBuf,
    pub data: PathBuf,
    pub password: String,
    pub quick: bool,
}

impl<'a> Cluster<'a> {
    /// Opens the cluster of a folder, making it at the first start; nobody else uses it then.
    pub async fn open(folder: &'a Folder, secret: &[u8], quick: bool) -> Result<Self, StartError> {
        // Whoever has the log has the data: nothing is touched before.
        let log = Log::open(folder, NAME, LOG).await?;
        let data = folder.join(DATA);
        let version = fs::read_to_string(data.join("PG_VERSION"));
        let version = version.ok().and_then(|text| text.trim().parse().ok());
        let programs = programs::postgres(&data, version).await?;
        let password = hex(secret);
        let mut cluster = Self { folder, programs, data, password, quick };
        if cluster.data.try_exists().map_err(StartError::at(&cluster.data))? {
            drop(log);
            folder.private_directory(DATA)?;
            cluster.recall_password().await?;
        } else {
            cluster.make(log).await?;
        }
        Ok(cluster)
    }

    /// The log of the server, once nothing of an earlier run writes to it.
    pub async fn log(&self) -> Result<Log, StartError> {
        Log::open(self.folder, NAME, LOG).await
    }

    /// Starts one of the programs below a watchdog.
    pub fn run(
        &self,
        log: Log,
        name: &'static str,
        arguments: Vec<OsString>,
        input: &Path,
        signals: (&'static str, &'static str),
    ) -> Result<Watched, StartError> {
        let (path, input) = (self.programs.join(name), input.to_path_buf());
        Watched::start(self.folder, log, &Program { name, path, arguments, input, signals })
    }

    async fn make(&self, log: Log) -> Result<(), StartError> {
        tracing::info!("making a PostgreSQL cluster in {}", self.data.display());
        let unfinished = self.folder.join(UNFINISHED);
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(StartError::at(&unfinished))?;
        }
        self.folder.private_directory(UNFINISHED)?;
        let input = self.folder.write_private(INPUT, self.password.as_bytes())?;
        let mut arguments =
            words("--username=customers --auth=scram-sha-256 --encoding=UTF8 --locale=C");
        if self.quick {
            arguments.push("--no-sync".into());
        }
        arguments.extend(["--pwfile".as_ref(), input.as_os_str()].map(OsStr::to_owned));
        arguments.extend(["--pgdata".as_ref(), unfinished.as_os_str()].map(OsStr::to_owned));
        let initdb =
            self.run(log, "initdb", arguments, Path::new("/dev/null"), ("TERM", "KILL"))?;
        let made = initdb.finish(INIT_LIMIT).await;
        remove_if_there(&input).map_err(StartError::at(&input))?;
        made?;
        self.single_user(&unfinished, "create database customers").await?;
        // Before the data: where there are data there is their password.
        self.folder.write_private(PASSWORD, self.password.as_bytes())?;
        fs::rename(&unfinished, &self.data).map_err(StartError::at(&self.data))
    }

    /// Reads the password that was set when the cluster was made, or sets a new one if its file was
    /// lost.
    async fn recall_password(&mut self) -> Result<(), StartError> {
        let path = self.folder.join(PASSWORD);
        let kept = match fs::read_to_string(&path) {
            Ok(text) => text.trim().to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(StartError::at(&path)(error)),
        };
        if !kept.is_empty() {
            self.password = kept;
            return Ok(());
        }
        tracing::warn!("{} is missing: setting a new password", path.display());
        let statement = format!("alter role customers password '{}'", self.password);
        self.single_user(&self.data, &statement).await?;
        self.folder.write_private(PASSWORD, self.password.as_bytes()).map(drop)
    }

    /// Runs one statement without a server: no password, no network, and nothing of it on a command
    /// line.
    async fn single_user(&self, data: &Path, statement: &str) -> Result<(), StartError> {
        let log = self.log().await?;
        let input = self.folder.write_private(INPUT, format!("{statement}\n").as_bytes())?;
        // A failed statement must not look like success, nor be quoted in the log.
        let mut arguments = words("--single -c exit_on_error=on -c log_min_error_statement=panic");
        arguments
            .extend(["-D".as_ref(), data.as_os_str(), "postgres".as_ref()].map(OsStr::to_owned));
        let postgres = self.run(log, "postgres", arguments, &input, ("TERM", "QUIT"))?;
        let ran = postgres.finish(READY_LIMIT).await;
        remove_if_there(&input).map_err(StartError::at(&input))?;
        ran
    }
}

/// Arguments that hold no space.
pub fn words(arguments: &str) -> Vec<OsString> {
    arguments.split(' ').map(OsString::from).collect()
}
