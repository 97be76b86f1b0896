//! The table of routes as a router: a request finds the frame of its row, or gets 404 or 405.

use std::borrow::Cow;

use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use percent_encoding::percent_decode_str;

use super::error::ApiError;
use super::frame::Frame;
use super::oauth::METADATA_PATH;
use super::query::{PathName, SecondPathName};
use super::request::{BoxRequest, Caller};

/// The frames of a path, by their methods.
#[derive(Default)]
struct Methods(Vec<(Method, Frame)>);

impl Methods {
    /// The frame of a method. That of GET answers HEAD, too.
    fn find(&self, method: &Method) -> Option<&Frame> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        self.0.iter().find(|(of, _)| of == method).map(|(_, frame)| frame)
    }

    /// The value of `Allow` (RFC 9110, section 10.2.1).
    fn allowed(&self) -> HeaderValue {
        let names = self.0.iter().flat_map(|(method, _)| match *method {
            Method::GET => vec!["GET", "HEAD"],
            ref method => vec![method.as_str()],
        });
        let names: Vec<&str> = names.chain(["OPTIONS"]).collect();
        HeaderValue::from_str(&names.join(",")).expect("names of methods")
    }
}

/// What a path can do (RFC 9110, section 9.3.7). It costs nothing and tells no more than the document does, so it has no
/// frame.
fn options(methods: &Methods) -> Response {
    let mut answer = StatusCode::NO_CONTENT.into_response();
    answer.headers_mut().insert(header::ALLOW, methods.allowed());
    answer
}

/// The rows by path and method.
pub(super) struct Router {
    paths: matchit::Router<Methods>,
    /// The path of the public URL. A proxy in front may remove it or leave it.
    public_path: String,
}

impl Router {
    /// A row is a method, a path with at most two parameters, and its frame.
    pub(super) fn new(
        rows: impl IntoIterator<Item = (Method, &'static str, Frame)>,
        public_path: &str,
    ) -> Self {
        let mut paths: Vec<(&str, Methods)> = vec![];
        for (method, path, frame) in rows {
            let known = paths.iter().position(|(known, _)| *known == path);
            let known = known.unwrap_or_else(|| {
                paths.push((path, Methods::default()));
                paths.len() - 1
            });
            paths[known].1.0.push((method, frame));
        }
        let mut router = matchit::Router::new();
        for (path, methods) in paths {
            router.insert(path, methods).expect("paths that differ");
        }
        Self { paths: router, public_path: public_path.to_owned() }
    }

    pub(super) async fn answer(&self, mut request: BoxRequest) -> Response {
        let Some((methods, [name, second])) = self.find(request.uri().path()) else {
            return ApiError::NoRoute.into_response();
        };
        let Some(frame) = methods.find(request.method()) else {
            if request.method() == Method::OPTIONS {
                return options(methods);
            }
            let mut refused = ApiError::MethodNotAllowed.into_response();
            refused.headers_mut().insert(header::ALLOW, methods.allowed());
            return refused;
        };
        if let Some(caller) = request.extensions().get::<Caller>() {
            caller.is_routed(&frame.metrics);
        }
        if let Some(name) = name {
            request.extensions_mut().insert(name);
        }
        if let Some(PathName(second)) = second {
            request.extensions_mut().insert(SecondPathName(second));
        }
        frame.answer(request).await
    }

    /// The methods of the path, and the names in it that its parameters stand for, with the public path or without.
    fn find(&self, path: &str) -> Option<(&Methods, [Option<PathName>; 2])> {
        let below = path.strip_prefix(&self.public_path).filter(|below| below.starts_with('/'));
        // The metadata of an issuer with a path stand before it (RFC 8414, section 3.1).
        let before = path.strip_suffix(&self.public_path).filter(|before| *before == METADATA_PATH);
        let found = below.or(before).and_then(|path| self.paths.at(path).ok());
        let found = found.or_else(|| self.paths.at(path).ok())?;
        let mut names = found.params.iter().map(|(_, segment)| {
            PathName(percent_decode_str(segment).decode_utf8().ok().map(Cow::into_owned))
        });
        Some((found.value, [names.next(), names.next()]))
    }
}
