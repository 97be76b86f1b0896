//! The private Redis: started on a free port of 127.0.0.1, with every write in its append-only file.

use std::{
    net::{Ipv4Addr, TcpListener},
    os::unix::ffi::OsStrExt as _,
    path::Path,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};

use super::{
    error::StartError,
    folder::Folder,
    options::READY_LIMIT,
    programs,
    running::Running,
    watchdog::{Log, POLL, Program, WatchedProgram},
};

const NAME: &str = "Redis";

/// How many times a start picks another port, after another program took the port first.
pub const PORT_ATTEMPTS: u32 = 5;

/// The messages of the servers when their port is taken: glibc and macOS, musl.
pub const ADDRESS_TAKEN: [&str; 2] = ["Address already in use", "Address in use"];

/// How long one attempt at AUTH and PING may take on the loopback interface.
const PING_LIMIT: Duration = Duration::from_secs(1);

/// The answer to AUTH and PING. A server that still loads its data answers PING with an error.
const READY: &[u8] = b"+OK\r\n+PONG\r\n";

/// Starts Redis on the data of the folder, with a new password; retries if another program takes the
/// port first.
pub async fn start(folder: &Folder, secret: &[u8]) -> Result<Running, StartError> {
    let path = programs::find(&["redis-server", "valkey-server"])
        .ok_or(StartError::Missing { program: "Redis (redis-server or valkey-server)" })?;
    let password = hex(secret);
    let mut retries = 0;
    loop {
        // Redis does not lock its data: the lock of the log protects it.
        let log = Log::open(folder, NAME, "redis.log").await?;
        let data = folder.private_directory("redis")?;
        let port = free_port().map_err(|cause| StartError::Spawn { program: NAME, cause })?;
        let settings = folder.write_private("redis.conf", &settings(&data, port, &password))?;
        let program = Program {
            name: "redis-server",
            path: path.clone(),
            arguments: vec![settings.into()],
            input: "/dev/null".into(),
            signals: ("TERM", "KILL"),
        };
        let mut process = WatchedProgram::start(folder, log, &program)?;
        let Some(failure) = ready(&mut process, port, &password).await? else {
            return Ok(Running { url: format!("redis://:{password}@127.0.0.1:{port}/0"), process });
        };
        let output = process.output();
        if retries >= PORT_ATTEMPTS || !ADDRESS_TAKEN.iter().any(|text| output.contains(text)) {
            return Err(failure);
        }
        retries += 1;
    }
}

/// Waits for the first answer; returns the failure if the server ends instead.
async fn ready(
    process: &mut WatchedProgram,
    port: u16,
    password: &str,
) -> Result<Option<StartError>, StartError> {
    let deadline = Instant::now() + READY_LIMIT;
    while Instant::now() < deadline {
        if let Some(status) = process.ended()? {
            return Ok(Some(process.failed(status)));
        }
        if let Ok(Ok(true)) = tokio::time::timeout(PING_LIMIT, answers(port, password)).await {
            return Ok(None);
        }
        tokio::time::sleep(POLL).await;
    }
    Err(process.slow(READY_LIMIT))
}

/// Whether the server on this port accepts the password, which only this Redis has, and is ready.
async fn answers(port: u16, password: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let length = password.len();
    let request = format!("*2\r\n$4\r\nAUTH\r\n${length}\r\n{password}\r\n*1\r\n$4\r\nPING\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = [0; READY.len()];
    stream.read_exact(&mut answer).await?;
    Ok(answer == READY)
}

/// The configuration file. It holds the password, because every user can read a command line.
fn settings(data: &Path, port: u16, password: &str) -> Vec<u8> {
    let data = quoted(data.as_os_str().as_bytes());
    format!(
        "bind 127.0.0.1\nport {port}\nprotected-mode yes\nrequirepass {password}\ndir {data}\n\
         daemonize no\nlogfile \"\"\nappendonly yes\nsave \"\"\nmaxmemory-policy noeviction\n"
    )
    .into_bytes()
}

/// A quoted string of the configuration file; bytes that are not plain ASCII are written as `\xNN`.
fn quoted(bytes: &[u8]) -> String {
    let escaped = bytes.iter().map(|byte| match byte {
        b' '..=b'~' if !matches!(byte, b'"' | b'\\') => char::from(*byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

/// A port that is free now. Another program may take it before the server does, so callers retry.
pub fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// The bytes as hexadecimal digits, which need no quoting anywhere.
pub fn hex(secret: &[u8]) -> String {
    let digits = secret.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits.map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_any_bytes_fits_on_one_line_of_the_configuration() {
        assert_eq!(quoted(b"/a b/c"), "\"/a b/c\"");
        assert_eq!(quoted(b"/\"\\\n\xff"), "\"/\\x22\\x5c\\x0a\\xff\"");
    }

    #[test]
    fn a_password_is_plain_hexadecimal() {
        assert_eq!(hex(&[0, 15, 255]), "000fff");
    }
}
