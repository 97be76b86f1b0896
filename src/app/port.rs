//! The port of the service, and how it closes.

use std::collections::VecDeque;
use std::net::SocketAddr;

use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// The port of the service. When it closes, the connections that the kernel has accepted for it are
/// served: closing the listener would reset them, and with them requests that are already sent.
pub(super) struct Port {
    /// `None`: closed.
    listener: Option<TcpListener>,
    last: VecDeque<(std::net::TcpStream, SocketAddr)>,
    close: CancellationToken,
}

impl Port {
    /// Closes when `close` is cancelled.
    pub(super) fn new(listener: TcpListener, close: CancellationToken) -> Self {
        Self { listener: Some(listener), last: VecDeque::new(), close }
    }
}

impl Listener for Port {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        if let Some(listener) = &mut self.listener {
            tokio::select! {
                accepted = Listener::accept(listener) => return accepted,
                () = self.close.cancelled() => {}
            }
        }
        if let Some(Ok(listener)) = self.listener.take().map(TcpListener::into_std) {
            // Does not wait: tokio has made the listener non-blocking.
            self.last.extend(std::iter::from_fn(|| listener.accept().ok()));
        }
        while let Some((stream, address)) = self.last.pop_front() {
            let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
            if let Ok(stream) = stream {
                return (stream, address);
            }
        }
        std::future::pending().await
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener
            .as_ref()
            .map_or(Err(std::io::ErrorKind::NotConnected.into()), TcpListener::local_addr)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_port_that_closes_hands_out_the_connections_that_the_kernel_has_accepted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let close = CancellationToken::new();
        let mut port = Port::new(listener, close.clone());
        let mut clients = VecDeque::new();
        for _ in 0..3 {
            let client = TcpStream::connect(address).await.expect("the kernel accepts");
            clients.push_back(client.local_addr().expect("it is bound"));
        }
        close.cancel();
        while let Some(client) = clients.pop_front() {
            assert_eq!(port.accept().await.1, client);
        }
        let _ = tokio::time::timeout(Duration::ZERO, port.accept()).await.expect_err("no more");
        TcpStream::connect(address).await.expect_err("the port is closed");
    }
}
