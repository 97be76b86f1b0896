//! The client of the collector of traces: one connection for each batch, on a small runtime of its own, so that neither
//! a slow collector nor one that is away touches the runtime of the service.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

/// How long the collector may take to take a batch.
const EXPORT_LIMIT: Duration = Duration::from_secs(5);

/// How many bytes of its answer are read.
const ANSWER_MAX: usize = 64 * 1024;

/// Counts the batches that it has not taken.
const FAILED: &str = "customers_trace_exports_failed_total";

/// The collector of traces.
pub(super) struct Collector {
    runtime: Runtime,
    tls: TlsConnector,
    /// Since when it has taken nothing, if it does not.
    away: Mutex<Option<Instant>>,
}

impl fmt::Debug for Collector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Collector")
    }
}

impl Collector {
    /// Reads the authorities of `OTEL_EXPORTER_OTLP_CERTIFICATE`, if it is set; otherwise the public ones count.
    pub(super) fn new() -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let mut roots = RootCertStore::empty();
        match std::env::var("OTEL_EXPORTER_OTLP_CERTIFICATE") {
            Ok(file) if !file.is_empty() => {
                let unreadable = |error| format!("OTEL_EXPORTER_OTLP_CERTIFICATE: {error}");
                let certificates = CertificateDer::pem_file_iter(&file).map_err(unreadable)?;
                for certificate in certificates {
                    let added = roots.add(certificate.map_err(unreadable)?);
                    added.map_err(|error| format!("OTEL_EXPORTER_OTLP_CERTIFICATE: {error}"))?;
                }
            }
            _ => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tls = TlsConnector::from(Arc::new(config));
        Ok(Self { runtime, tls, away: Mutex::default() })
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let uri = request.uri().clone();
        let host = uri.host().ok_or("the endpoint has no host")?;
        // IPv6 addresses have brackets in a URL only.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        if is_tls {
            let name = ServerName::try_from(host)?;
            send(self.tls.connect(name, stream).await?, &uri, request).await
        } else {
            send(stream, &uri, request).await
        }
    }

    /// Counts a failure, and logs the first of several and their end.
    fn note(&self, answer: &Result<Response<Bytes>, HttpError>) {
        let problem = match answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answers {}", answer.status())),
            Err(error) => Some(error.to_string()),
        };
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        match (problem, *away) {
            (Some(problem), since) => {
                metrics::counter!(FAILED).increment(1);
                if since.is_none() {
                    tracing::warn!(problem, "traces: the collector takes no spans");
                    *away = Some(Instant::now());
                }
            }
            (None, Some(since)) => {
                tracing::warn!(away = ?since.elapsed(), "traces: the collector takes spans again");
                *away = None;
            }
            (None, None) => {}
        }
    }
}

#[async_trait]
impl HttpClient for Collector {
    /// Blocks its thread, which is the exporter's own.
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.runtime.block_on(async {
            let exchange = tokio::time::timeout(EXPORT_LIMIT, self.exchange(request));
            exchange
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {EXPORT_LIMIT:?}").into()))
        });
        self.note(&answer);
        answer
    }
}

/// Sends a request over a connection, and reads the answer.
async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    uri: &Uri,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, HttpError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driven = tokio::spawn(connection);
    let (mut parts, body) = request.into_parts();
    if let Some(authority) = uri.authority() {
        // Without user and password, which an authority may have.
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        parts.headers.insert(HOST, HeaderValue::from_str(host)?);
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    parts.uri = path.parse()?;
    let answer = sender.send_request(Request::from_parts(parts, Full::new(body))).await?;
    let (parts, body) = answer.into_parts();
    let body = Limited::new(body, ANSWER_MAX).collect().await?.to_bytes();
    driven.abort();
    Ok(Response::from_parts(parts, body))
}
