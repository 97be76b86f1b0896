//! `POST /customers/import`: many customers from one body. The body is received whole, into a spool
//! file, before anything is imported: a client that disconnects half-way has imported nothing.

use std::io::SeekFrom;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use tokio::fs::File;
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::body::media_type;
use super::error::{ApiError, FieldError};
use super::guard::{Authorized, Editor};
use super::headers::{visible_ascii, with_reason};
use super::limits::Limits;
use super::query::Params;
use super::read_your_writes;
use super::spool::{spool_error, spool_file};
use super::state::Api;
use crate::commands::BusError;
use crate::commands::import::lines::{FileError, Format, LineError, Lines};
use crate::commands::import::{Fingerprint, ImportError, ImportRequest, Summary};

/// The limits of the route: files are large and slow to arrive.
pub const LIMITS: Limits = Limits { body: 1024 * 1024 * 1024, answer: Duration::from_hours(1) };

/// How many imports one process runs at the same time.
pub const IMPORTS_MAX: usize = 4;

/// How long the next chunk of the body may take to arrive.
const CHUNK_LIMIT: Duration = Duration::from_secs(30);

/// The approximate size of a chunk of the response, in bytes.
const CHUNK: usize = 16 * 1024;

/// The header with the import id that the client chooses.
const IMPORT_ID: HeaderName = HeaderName::from_static("import-id");

/// `POST /customers/import`
pub(super) async fn import(
    authorized: Authorized<Editor>,
    State(api): State<Api>,
    params: Params,
    request: Request,
) -> Result<Response, ApiError> {
    let headers = request.headers().clone();
    let format = format(&headers)?;
    params.none()?;
    let metadata = with_reason(authorized.metadata, &headers)?;
    let id = visible_ascii(&headers, &IMPORT_ID)?;
    let slot =
        Arc::clone(&api.import_slots).try_acquire_owned().map_err(|_| ApiError::Overloaded)?;

    let mut fingerprint = Fingerprint::new(format);
    let file = receive(&api, request.into_body().into_data_stream(), &mut fingerprint).await?;
    let file = file.into_std().await;
    let today = api.clock.today();
    let opening = tokio::task::spawn_blocking(move || Lines::open(file, format, today));
    let lines = opening.await.map_err(BusError::TaskFailed)?.map_err(|error| match error {
        FileError::Header(errors) => ApiError::Invalid(fields(errors)),
        FileError::Read(error) => spool_error(&error),
    })?;
    let account = authorized.principal.username.to_string();
    let request = ImportRequest { account, id, fingerprint: fingerprint.finish(), metadata };
    api.imports.check(&request).await?;

    let (sender, answer) = mpsc::channel(4);
    let answering = Answer { sender, pending: vec![] };
    let tasks = api.tasks.clone();
    tasks.spawn(async move {
        let _slot = slot;
        // Runs to its end, even if the client disconnects.
        run(api, lines, request, answering, &authorized.caller.request_id).await;
    });
    let body = stream::unfold(answer, async |mut answer: mpsc::Receiver<Bytes>| {
        answer.recv().await.map(|chunk| (Ok::<_, std::convert::Infallible>(chunk), answer))
    });
    let ndjson = HeaderValue::from_static("application/x-ndjson");
    Ok(([(header::CONTENT_TYPE, ndjson)], Body::from_stream(body)).into_response())
}

/// The format named by `Content-Type`.
fn format(headers: &HeaderMap) -> Result<Format, ApiError> {
    match media_type(headers).as_deref() {
        Some("application/x-ndjson" | "application/ndjson" | "application/jsonl") => {
            Ok(Format::Ndjson)
        }
        Some("text/csv") => Ok(Format::Csv),
        _ => Err(ApiError::UnsupportedMediaType("application/x-ndjson or text/csv")),
    }
}

/// Receives the whole body into a spool file, and hashes it.
async fn receive(
    api: &Api,
    mut body: BodyDataStream,
    hash: &mut Fingerprint,
) -> Result<File, ApiError> {
    let mut file = spool_file(&api.spool_dir).map_err(|error| spool_error(&error))?;
    let mut length = 0;
    loop {
        let late = |_| ApiError::malformed("body", "did not arrive in time");
        let chunk = tokio::time::timeout(CHUNK_LIMIT, body.next()).await.map_err(late)?;
        let Some(chunk) = chunk else { break };
        let chunk = chunk.map_err(|_| ApiError::malformed("body", "ended too early"))?;
        length += chunk.len();
        if length > LIMITS.body {
            return Err(ApiError::TooLarge(LIMITS.body));
        }
        hash.update(&chunk);
        file.write_all(&chunk).await.map_err(|error| spool_error(&error))?;
    }
    file.flush().await.map_err(|error| spool_error(&error))?;
    file.seek(SeekFrom::Start(0)).await.map_err(|error| spool_error(&error))?;
    Ok(file)
}

/// Runs the import and streams its results.
async fn run(api: Api, lines: Lines, request: ImportRequest, mut answer: Answer, request_id: &str) {
    #[derive(Serialize)]
    struct Last {
        summary: Summary,
    }
    let (sender, mut refused) = mpsc::channel(128);
    let reporting = async {
        while let Some(line) = refused.recv().await {
            answer.line(&line).await;
        }
    };
    let importing = api.imports.run(lines, &request, &api.stopping, sender);
    let (outcome, ()) = tokio::join!(importing, reporting);
    match outcome {
        Ok(summary) => {
            // Like every write, it is answered when the read table shows it.
            read_your_writes::wait_for_customers(&api, summary.last_position).await;
            answer.line(&Last { summary }).await;
        }
        Err(error) => {
            tracing::error!(request_id, %error, "import: stopped");
            let problem = ApiError::from(error).problem().body(request_id);
            answer.pending.extend_from_slice(format!("{{\"error\":{problem}}}\n").as_bytes());
        }
    }
    answer.send().await;
}

/// The response, sent in chunks.
struct Answer {
    sender: mpsc::Sender<Bytes>,
    pending: Vec<u8>,
}

impl Answer {
    async fn line(&mut self, line: &impl Serialize) {
        // Serializing plain structs into memory cannot fail.
        let _ = serde_json::to_writer(&mut self.pending, line);
        self.pending.push(b'\n');
        if self.pending.len() >= CHUNK {
            self.send().await;
        }
    }

    async fn send(&mut self) {
        // The client may have disconnected.
        let _ = self.sender.send(Bytes::from(std::mem::take(&mut self.pending))).await;
    }
}

fn fields(errors: Vec<LineError>) -> Vec<FieldError> {
    errors.into_iter().map(|error| FieldError::new(error.field, error.detail)).collect()
}

impl From<ImportError> for ApiError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::ImportIdReused => Self::IdempotencyMismatch,
            ImportError::Unavailable(_) | ImportError::Stopped | ImportError::Read(_) => {
                Self::Unavailable(error.to_string())
            }
        }
    }
}
