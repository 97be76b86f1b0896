//! A small TCP proxy in front of a server: a test cuts connections at a chosen moment, lets them go silent,
//! or moves the server to another port while the client keeps the address.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Which data the proxy drops next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The proxy forwards everything.
    Nothing = 0,
    /// The proxy drops the next data to the server and closes both connections.
    NextRequest = 1,
    /// The server executes the request; the proxy drops its answer and closes both connections.
    NextAnswer = 2,
}

#[derive(Clone)]
pub struct Proxy {
    pub address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    cut: Arc<AtomicU8>,
    /// Cancels the current connections.
    open: Arc<Mutex<CancellationToken>>,
    /// Silences the current connections.
    carried: Arc<Mutex<CancellationToken>>,
    /// Whether new connections are silent from the beginning.
    is_black_hole: Arc<AtomicBool>,
}

impl Proxy {
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            address: listener.local_addr().unwrap(),
            target: Arc::new(Mutex::new(target)),
            cut: Arc::default(),
            open: Arc::default(),
            carried: Arc::default(),
            is_black_hole: Arc::default(),
        };
        let running = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let proxy = running.clone();
                // If the server refuses, the task ends, which closes the client's connection.
                tokio::spawn(async move { proxy.carry(client).await });
            }
        });
        proxy
    }

    /// The URL of a database behind the proxy.
    pub fn url(&self, url: &str) -> String {
        let server = crate::lost_connections::server_of(url);
        let through = url.replace(&server.to_string(), &self.address.to_string());
        assert_ne!(through, url);
        through
    }

    pub fn arm(&self, cut: Cut) {
        self.cut.store(cut as u8, Ordering::SeqCst);
    }

    pub fn is_armed(&self) -> bool {
        self.cut.load(Ordering::SeqCst) != Cut::Nothing as u8
    }

    /// Closes all current connections.
    pub fn cut_all(&self) {
        std::mem::take(&mut *self.open.lock().unwrap()).cancel();
    }

    /// Carries nothing more on the current connections, in either direction, and closes none: as when a
    /// machine loses its power, or a firewall forgets them. New connections are carried.
    pub fn silence(&self) {
        std::mem::take(&mut *self.carried.lock().unwrap()).cancel();
    }

    /// Silences the current connections and all later ones.
    pub fn become_black_hole(&self) {
        self.is_black_hole.store(true, Ordering::SeqCst);
        self.silence();
    }

    pub fn move_to(&self, target: SocketAddr) {
        *self.target.lock().unwrap() = target;
    }

    async fn carry(&self, client: TcpStream) -> std::io::Result<()> {
        let open = self.open.lock().unwrap().clone();
        let carried = self.carried.lock().unwrap().clone();
        if self.is_black_hole.load(Ordering::SeqCst) {
            open.cancelled().await;
            return Ok(());
        }
        let target = *self.target.lock().unwrap();
        let server = TcpStream::connect(target).await?;
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let (mut asked, mut answered) = (vec![0; 65536], vec![0; 65536]);
        loop {
            tokio::select! {
                () = open.cancelled() => return Ok(()),
                () = carried.cancelled() => {
                    open.cancelled().await;
                    return Ok(());
                }
                read = from_client.read(&mut asked) => {
                    let length = read?;
                    if length == 0 || self.hits(Cut::NextRequest) {
                        return Ok(());
                    }
                    to_server.write_all(&asked[..length]).await?;
                }
                read = from_server.read(&mut answered) => {
                    let length = read?;
                    if length == 0 || self.hits(Cut::NextAnswer) {
                        return Ok(());
                    }
                    to_client.write_all(&answered[..length]).await?;
                }
            }
        }
    }

    fn hits(&self, cut: Cut) -> bool {
        let nothing = Cut::Nothing as u8;
        self.cut.compare_exchange(cut as u8, nothing, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}
