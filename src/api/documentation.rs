//! What the service says of itself: the OpenAPI document, its page, and the pages of the types of errors.

use std::sync::LazyLock;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;

use super::error::ApiError;
use super::headers::prefers_html;
use super::packing::Kept;
use super::problem_types::{self, ProblemType};
use super::query::{Params, PathName};
use super::state::Api;

/// The page of Swagger UI. It asks no other server: `validatorUrl` would send it the document.
const PAGE: &str = include_str!("documentation/docs.html");

/// The policy of the page, and of no other path. Swagger UI sets styles, and has images in its style sheet.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                           img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
                           frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// The files of the page: name, type, text.
static FILES: LazyLock<[(&str, &str, Kept); 3]> = LazyLock::new(|| {
    let bundle = include_str!("../../vendor/swagger-ui/swagger-ui-bundle.js");
    let style = include_str!("../../vendor/swagger-ui/swagger-ui.css");
    [
        ("start.js", SCRIPT, Kept::new(include_str!("documentation/start.js"))),
        ("swagger-ui-bundle.js", SCRIPT, Kept::new(bundle)),
        ("swagger-ui.css", STYLE, Kept::new(style)),
    ]
});

/// `GET /openapi.json`
pub(super) async fn openapi(
    State(api): State<Api>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    params.none()?;
    api.openapi.answer(&headers, "application/json").await
}

/// `GET /docs`
pub(super) async fn docs(State(api): State<Api>, params: Params) -> Result<Response, ApiError> {
    params.none()?;
    let page = PAGE.replace("{base}", &api.public_path);
    let headers = [(header::CONTENT_TYPE, HTML), (header::CONTENT_SECURITY_POLICY, PAGE_POLICY)];
    Ok((headers, page).into_response())
}

/// `GET /docs/{file}`
pub(super) async fn docs_file(
    PathName(name): PathName,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    params.none()?;
    let file = FILES.iter().find(|(file, ..)| name.as_deref() == Some(file));
    let (_, media_type, kept) = file.ok_or(ApiError::NoRoute)?;
    kept.answer(&headers, media_type).await
}

/// The explanation of a type of errors.
#[derive(Serialize)]
struct Explanation<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    meaning: &'a str,
    remedy: &'a str,
}

/// `GET /problems/{slug}`: JSON, or a page for a browser.
pub(super) async fn problem_type(
    State(api): State<Api>,
    PathName(slug): PathName,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    params.none()?;
    let found = problem_types::ALL.into_iter().find(|kind| slug.as_deref() == Some(kind.slug));
    let kind = found.ok_or(ApiError::NoRoute)?;
    let vary = [(header::VARY, "accept")];
    if prefers_html(&headers) {
        let html = [(header::CONTENT_TYPE, HTML)];
        return Ok((vary, html, page_of(kind)).into_response());
    }
    let ProblemType { slug, status, title, meaning, remedy } = kind;
    let r#type = format!("{}/problems/{slug}", api.public_path);
    let explanation = Explanation { r#type, title, status: status.as_u16(), meaning, remedy };
    Ok((vary, Json(explanation)).into_response())
}

/// Plain HTML. All of its texts are constants.
fn page_of(kind: &ProblemType) -> String {
    let ProblemType { slug, status, title, meaning, remedy } = kind;
    let status = status.as_u16();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
         <h1>{title}</h1>\n<p>Status {status}, type <code>/problems/{slug}</code></p>\n\
         <h2>What it means</h2>\n<p>{meaning}</p>\n<h2>What to do</h2>\n<p>{remedy}</p>\n</html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_no_text_that_html_reads_otherwise() {
        for kind in problem_types::ALL {
            for text in [kind.slug, kind.title, kind.meaning, kind.remedy] {
                assert!(!text.contains(['<', '>', '&']), "{text}");
            }
        }
    }
}
