//! The database cluster of the private PostgreSQL: created once, under a temporary name until it is
//! complete, and never replaced.

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
    watchdog::{Log, Program, WatchedProgram},
};

pub const NAME: &str = "PostgreSQL";
const LOG: &str = "postgres.log";
const DATA: &str = "postgres";
const UNFINISHED: &str = "postgres.unfinished";
const PASSWORD: &str = "postgres.password";
/// The input of a program that must not be on its command line; removed after use.
const INPUT: &str = "postgres.input";

/// How long the creation of a cluster may take; a laptop needs a second.
const INIT_LIMIT: Duration = Duration::from_mins(2);

pub struct Cluster<'a> {
    folder: &'a Folder,
    /// The folder of `postgres` and `initdb`.
    programs: PathBuf,
    pub data: PathBuf,
    pub password: String,
    pub throw_away: bool,
}

impl<'a> Cluster<'a> {
    /// Opens the cluster of the folder, or creates it at the first start, after all processes of an
    /// earlier run have ended.
    pub async fn open(
        folder: &'a Folder,
        secret: &[u8],
        throw_away: bool,
    ) -> Result<Self, StartError> {
        // The lock of the log protects the data too: nothing is changed before this process holds it.
        let log = Log::open(folder, NAME, LOG).await?;
        let data = folder.join(DATA);
        let version = fs::read_to_string(data.join("PG_VERSION"));
        let version = version.ok().and_then(|text| text.trim().parse().ok());
        let programs = programs::postgres(&data, version).await?;
        let password = hex(secret);
        let mut cluster = Self { folder, programs, data, password, throw_away };
        if cluster.data.try_exists().map_err(StartError::at(&cluster.data))? {
            drop(log);
            folder.private_directory(DATA)?;
            cluster.load_password().await?;
        } else {
            cluster.create(log).await?;
        }
        Ok(cluster)
    }

    /// Opens the log of the server, after all processes of an earlier run have ended.
    pub async fn log(&self) -> Result<Log, StartError> {
        Log::open(self.folder, NAME, LOG).await
    }

    /// Starts one of the programs under a watchdog.
    pub fn run(
        &self,
        log: Log,
        name: &'static str,
        arguments: Vec<OsString>,
        input: &Path,
        signals: (&'static str, &'static str),
    ) -> Result<WatchedProgram, StartError> {
        let (path, input) = (self.programs.join(name), input.to_path_buf());
        WatchedProgram::start(self.folder, log, &Program { name, path, arguments, input, signals })
    }

    async fn create(&self, log: Log) -> Result<(), StartError> {
        tracing::info!(folder = %self.data.display(), "dev: creating a PostgreSQL cluster");
        let unfinished = self.folder.join(UNFINISHED);
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(StartError::at(&unfinished))?;
        }
        self.folder.private_directory(UNFINISHED)?;
        let input = self.folder.write_private(INPUT, self.password.as_bytes())?;
        let mut arguments =
            words("--username=customers --auth=scram-sha-256 --encoding=UTF8 --locale=C");
        if self.throw_away {
            arguments.push("--no-sync".into());
        }
        arguments.extend(["--pwfile".as_ref(), input.as_os_str()].map(OsStr::to_owned));
        arguments.extend(["--pgdata".as_ref(), unfinished.as_os_str()].map(OsStr::to_owned));
        let initdb =
            self.run(log, "initdb", arguments, Path::new("/dev/null"), ("TERM", "KILL"))?;
        let created = initdb.finish(INIT_LIMIT).await;
        remove_if_there(&input).map_err(StartError::at(&input))?;
        created?;
        self.single_user(&unfinished, "create database customers").await?;
        // Before the rename: data in its place always has a password file.
        self.folder.write_private(PASSWORD, self.password.as_bytes())?;
        fs::rename(&unfinished, &self.data).map_err(StartError::at(&self.data))
    }

    /// Reads the password that was set when the cluster was created, or sets a new one if its file was
    /// lost.
    async fn load_password(&mut self) -> Result<(), StartError> {
        let path = self.folder.join(PASSWORD);
        let stored = match fs::read_to_string(&path) {
            Ok(text) => text.trim().to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(StartError::at(&path)(error)),
        };
        if !stored.is_empty() {
            self.password = stored;
            return Ok(());
        }
        let file = path.display();
        tracing::warn!(%file, "dev: PostgreSQL password missing, setting a new one");
        let statement = format!("alter role customers password '{}'", self.password);
        self.single_user(&self.data, &statement).await?;
        self.folder.write_private(PASSWORD, self.password.as_bytes()).map(drop)
    }

    /// Runs one statement in single-user mode: without a password or a network, and with the statement
    /// on standard input, not on a command line.
    async fn single_user(&self, data: &Path, statement: &str) -> Result<(), StartError> {
        let log = self.log().await?;
        let input = self.folder.write_private(INPUT, format!("{statement}\n").as_bytes())?;
        // A failed statement must end the program with an error, and must not be quoted in the log.
        let mut arguments = words("--single -c exit_on_error=on -c log_min_error_statement=panic");
        arguments
            .extend(["-D".as_ref(), data.as_os_str(), "postgres".as_ref()].map(OsStr::to_owned));
        let postgres = self.run(log, "postgres", arguments, &input, ("TERM", "QUIT"))?;
        let ran = postgres.finish(READY_LIMIT).await;
        remove_if_there(&input).map_err(StartError::at(&input))?;
        ran
    }
}

/// Splits arguments at spaces; none may contain a space.
pub fn words(arguments: &str) -> Vec<OsString> {
    arguments.split(' ').map(OsString::from).collect()
}
