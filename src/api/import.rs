//! `POST /customers/import`: many customers from one body. The body is received whole, into a spool
//! file, before anything is imported: a client that disconnects half-way has imported nothing.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, HttpBody as _};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::Response;
use futures_util::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::account_slots::AccountSlot;
use super::body::unpacked_type;
use super::error::{ApiError, FieldError};
use super::guard::{Authorized, Editor, Requirement as _};
use super::headers::visible_ascii;
use super::import_answer::{ImportAnswer, PROGRESS_INTERVAL};
use super::limits::Limits;
use super::pace::in_time;
use super::packed_body::Unpacker;
use super::query::Params;
use super::read_your_writes;
use super::reason::with_reason;
use super::session_watch::SessionWatch;
use super::spool::{SpoolFile, SpoolShare, unavailable};
use super::state::Api;
use crate::commands::BusError;
use crate::commands::import::line::LineError;
use crate::commands::import::lines::{FileError, Format, Lines};
use crate::commands::import::progress::{Phase, Progress};
use crate::commands::import::{Fingerprint, ImportError, ImportRequest, Summary};
use crate::events::metadata::Metadata;

/// The limits of the route: files are large and slow to arrive.
pub const LIMITS: Limits = Limits { body: 1024 * 1024 * 1024, answer: Duration::from_hours(1) };

/// The most that a body may unpack to, in bytes: as much as one that is not packed, so that packing gets no client more
/// of the spool space.
const UNPACKED_MAX: u64 = LIMITS.body as u64;

/// How many imports one process runs at the same time.
pub const IMPORTS_MAX: usize = 4;

/// How many imports one account may have, from the first byte of the body to the end of the answer.
pub const PER_ACCOUNT: usize = 2;

/// How long an import whose body is there waits until it may begin.
const BEGIN_LIMIT: Duration = Duration::from_secs(30);

/// How often an import checks that its session is still open.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// The header with the import id that the client chooses.
const IMPORT_ID: HeaderName = HeaderName::from_static("import-id");

/// Proxies name themselves or the client in these. Some stop sending the body when the answer begins
/// (nginx with `proxy_request_buffering off`), so such a request is answered only after its body.
const OF_PROXIES: [HeaderName; 3] =
    [HeaderName::from_static("x-forwarded-for"), header::FORWARDED, header::VIA];

/// `POST /customers/import`
pub(super) async fn import(
    authorized: Authorized<Editor>,
    State(api): State<Api>,
    params: Params,
    request: Request,
) -> Result<Response, ApiError> {
    let began = Instant::now();
    let headers = request.headers();
    let unpacker = Unpacker::of(headers)?;
    let format = format(headers)?;
    params.none()?;
    let metadata = with_reason(authorized.metadata(), headers)?;
    let id = visible_ascii(headers, &IMPORT_ID)?;
    let is_forwarded = OF_PROXIES.iter().any(|name| headers.contains_key(name));
    let account = authorized.principal.username();
    let account_slot = api.account_imports.take(account, Duration::ZERO).await?;

    let account = account.to_string();
    let watch =
        SessionWatch::start(&api, authorized.principal.clone(), Editor::ROLE, CHECK_INTERVAL);
    let progress = Progress::watched(Phase::Receiving, request.body().size_hint().exact());
    let mut received = progress.subscribe();
    let request_id = authorized.caller.request_id().to_owned();
    let stop = Stop::new(&api, watch);
    let import = Arc::new(Import {
        api: api.clone(),
        format,
        account,
        id,
        metadata,
        request_id,
        progress,
        stop,
        _slot: account_slot,
    });
    let body = request.into_body();
    let mut preparing = {
        let import = Arc::clone(&import);
        Box::pin(async move { import.prepare(body, unpacker).await })
    };
    // A client that sends slowly, or waits for its turn, is told so; its errors are in the answer then.
    let silence = async {
        let mut silent_from = began;
        if is_forwarded {
            // The import holds the sender.
            let _ = received.wait_for(|at| at.phase != Phase::Receiving).await;
            silent_from = Instant::now();
        }
        tokio::time::sleep_until(silent_from + PROGRESS_INTERVAL).await;
    };
    let prepared = tokio::select! {
        biased;
        prepared = &mut preparing => Some(prepared?),
        () = silence => None,
    };
    let (answer, response) = ImportAnswer::new(import.stop.token.clone());
    // Runs to its end, even if the client disconnects, while the session is open.
    api.tasks.spawn(async move {
        let first =
            Instant::now() + if prepared.is_some() { PROGRESS_INTERVAL } else { Duration::ZERO };
        let prepared = async {
            match prepared {
                Some(prepared) => Ok(prepared),
                None => preparing.await,
            }
        };
        import.run(prepared, answer, first).await;
    });
    Ok(response)
}

/// An import at work.
struct Import {
    api: Api,
    format: Format,
    account: String,
    id: Option<String>,
    metadata: Metadata,
    request_id: String,
    progress: watch::Sender<Progress>,
    stop: Stop,
    _slot: AccountSlot,
}

/// A body that is there, and the places that its import holds.
struct Prepared {
    lines: Lines,
    request: ImportRequest,
    _slot: OwnedSemaphorePermit,
    _share: SpoolShare,
}

impl Import {
    /// Receives the body, waits for a turn, and checks what can be checked before the first line.
    async fn prepare(&self, body: Body, unpacker: Unpacker) -> Result<Prepared, ApiError> {
        let api = &self.api;
        let mut fingerprint = Fingerprint::new(self.format);
        let receiving = async {
            let body = body.into_data_stream();
            let spooled = self.receive(body, unpacker, &mut fingerprint).await?;
            let (file, share) = spooled.into_reader().await?;
            let total = Some(share.bytes());
            self.progress.send_modify(|at| *at = Progress::new(Phase::Waiting, total));
            // Only after the body, so that a client that sends it slowly takes no slot from the others.
            let slot = Arc::clone(&api.import_slots).acquire_owned();
            let slot = tokio::time::timeout(BEGIN_LIMIT, slot).await;
            let slot = slot.map_err(|_| ApiError::Overloaded)?.map_err(|_| ApiError::Overloaded)?;
            Ok::<_, ApiError>((file, share, slot))
        };
        let received = self.stop.token.run_until_cancelled(receiving).await;
        let (file, share, slot) = received.unwrap_or_else(|| Err(self.stop.error()))?;
        let (file, format, today) = (file.into_std().await, self.format, api.clock.today());
        let opening = tokio::task::spawn_blocking(move || Lines::open(file, format, today));
        let lines = opening.await.map_err(BusError::TaskFailed)??;
        let (account, id, metadata) =
            (self.account.clone(), self.id.clone(), self.metadata.clone());
        let request = ImportRequest { account, id, fingerprint: fingerprint.finish(), metadata };
        api.imports.check(&request).await?;
        Ok(Prepared { lines, request, _slot: slot, _share: share })
    }

    /// Receives the whole body, unpacked, into a spool file, and hashes it.
    async fn receive(
        &self,
        mut body: BodyDataStream,
        mut unpacker: Unpacker,
        hash: &mut Fingerprint,
    ) -> Result<SpoolFile, ApiError> {
        let mut spooled = Spooled { file: self.api.spool.file()?, hash, bytes: 0 };
        let (began, mut length) = (Instant::now(), 0);
        loop {
            let chunk = in_time(began, length, body.next()).await;
            let chunk = chunk.ok_or_else(|| ApiError::malformed("body", "arrived too slowly"))?;
            let Some(chunk) = chunk else { break };
            let chunk = chunk.map_err(|_| ApiError::malformed("body", "ended too early"))?;
            length += chunk.len() as u64;
            if length > LIMITS.body as u64 {
                return Err(ApiError::TooLarge(LIMITS.body));
            }
            unpacker.push(chunk);
            while let Some(piece) = unpacker.next()? {
                spooled.write(&piece).await?;
            }
            self.progress.send_modify(|at| at.bytes = length);
        }
        spooled.write(&unpacker.finish()?).await?;
        Ok(spooled.file)
    }

    /// Runs the import and sends its results; from `first` on also its progress.
    async fn run(
        &self,
        prepared: impl Future<Output = Result<Prepared, ApiError>>,
        mut answer: ImportAnswer,
        first: Instant,
    ) {
        let (sender, refused) = mpsc::channel(128);
        let importing = async move {
            // Holds its places to the end.
            let Self { api, progress, stop, request_id, .. } = self;
            let Prepared { lines, request, _slot, _share } =
                prepared.await.inspect_err(|error| {
                    let problem = error.problem();
                    if problem.status().is_server_error() {
                        tracing::error!(request_id, cause = problem.cause, "import: not begun");
                    }
                })?;
            let outcome = api.imports.run(lines, &request, &stop.token, sender, progress).await;
            let summary: Summary = outcome.map_err(|error| {
                let cause = error.to_string();
                let error = match error {
                    ImportError::Stopped => stop.error(),
                    error => error.into(),
                };
                // What the client has caused is told to the client.
                if error.problem().status().is_server_error() {
                    tracing::error!(request_id, error = cause, "import: stopped");
                } else {
                    tracing::info!(request_id, error = cause, "import: stopped");
                }
                error
            })?;
            // Like every write, it is answered when the read table shows it.
            read_your_writes::wait_for_customers(api, summary.last_position).await;
            Ok::<_, ApiError>(summary)
        };
        let reporting = answer.report(refused, &self.progress, first);
        let (outcome, ()) = tokio::join!(importing, reporting);
        let outcome =
            outcome.map_err(|error| error.problem().body(&self.api.public_path, &self.request_id));
        answer.end(outcome).await;
    }
}

/// What has arrived of a body, unpacked.
struct Spooled<'a> {
    file: SpoolFile,
    hash: &'a mut Fingerprint,
    bytes: u64,
}

impl Spooled<'_> {
    /// Adds a piece; 413 if the whole is larger than a body may be, whether or not it was packed.
    async fn write(&mut self, piece: &[u8]) -> Result<(), ApiError> {
        self.bytes += piece.len() as u64;
        if self.bytes > UNPACKED_MAX {
            return Err(ApiError::TooLarge(LIMITS.body));
        }
        self.hash.update(piece);
        self.file.write(piece).await
    }
}

/// Cancelled when the import has to end: with its session, and with the process.
struct Stop {
    token: CancellationToken,
    watch: SessionWatch,
    _watching: AbortOnDropHandle<Option<()>>,
}

impl Stop {
    fn new(api: &Api, watch: SessionWatch) -> Self {
        let token = api.stopping.child_token();
        let (stop, ended) = (token.clone(), watch.ended().clone());
        let watching = AbortOnDropHandle::new(api.tasks.spawn_until_shutdown(async move {
            ended.cancelled().await;
            stop.cancel();
        }));
        Self { token, watch, _watching: watching }
    }

    fn error(&self) -> ApiError {
        self.watch.error()
    }
}

/// The format named by `Content-Type`. Its charset may only be one that the file itself tells.
fn format(headers: &HeaderMap) -> Result<Format, ApiError> {
    let format = match unpacked_type(headers)?.as_deref() {
        Some("application/x-ndjson" | "application/ndjson" | "application/jsonl") => Format::Ndjson,
        Some("text/csv" | "text/tab-separated-values") => Format::Csv,
        _ => return Err(ApiError::UnsupportedMediaType(&["application/x-ndjson", "text/csv"])),
    };
    match charset(headers).as_deref() {
        None | Some("" | "utf-8" | "utf8" | "us-ascii" | "utf-16" | "utf-16le" | "utf-16be") => {
            Ok(format)
        }
        Some(_) => Err(ApiError::UnsupportedCharset),
    }
}

/// The parameter `charset` of `Content-Type`, in lower case.
fn charset(headers: &HeaderMap) -> Option<String> {
    let parameters = headers.get(header::CONTENT_TYPE)?.to_str().ok()?.split(';').skip(1);
    parameters.into_iter().find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"').to_ascii_lowercase();
        name.trim().eq_ignore_ascii_case("charset").then_some(value)
    })
}

fn fields(errors: Vec<LineError>) -> Vec<FieldError> {
    errors.into_iter().map(|error| FieldError::new(error.field, error.detail)).collect()
}

impl From<FileError> for ApiError {
    fn from(error: FileError) -> Self {
        let body = |problem| Self::Invalid(vec![FieldError::new("body", problem)]);
        match error {
            FileError::Header(refused) => Self::Invalid(fields(refused.errors)),
            FileError::NotText(what) => body(what),
            FileError::Empty => body("has no customers"),
            FileError::Read(error) => unavailable(&error),
        }
    }
}

impl From<ImportError> for ApiError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::ImportIdReused => Self::IdempotencyMismatch,
            ImportError::TooManyRefused => {
                Self::Invalid(vec![FieldError::new("body", error.to_string())])
            }
            ImportError::Unavailable(_) | ImportError::Stopped | ImportError::Read(_) => {
                Self::Unavailable(error.to_string())
            }
        }
    }
}
