//! The documentation of projections, health, metrics and keys.

use super::doc::{Doc, Tag};
use super::plain::{one_of, string};
use super::schemas;
use crate::api::problem_types::{NOT_FOUND, OBSTRUCTED};
use crate::projections;

pub(crate) fn list_projections() -> Doc {
    Doc::new(
        Tag::Projections,
        "list_projections",
        "Show the projections",
        "How far each read table is, and whether it is rebuilt.",
    )
    .json::<schemas::ProjectionList>(200, "The projections.", &[])
}

pub(crate) fn rebuild_projection() -> Doc {
    let names = projections::ALL.map(projections::Projection::name);
    Doc::new(
        Tag::Projections, "rebuild_projection",
        "Rebuild a projection",
        "Fills the read table from the log again, beside the present one, which serves until the new one takes its \
         place. An interrupted rebuild is resumed; one that runs goes on.",
    )
    .path("name", "The projection.", one_of(names))
    .json::<schemas::RebuildBegun>(202, "The rebuild runs.", &[])
    .problems(&[&NOT_FOUND, &OBSTRUCTED])
}

pub(crate) fn get_liveness() -> Doc {
    Doc::new(
        Tag::Operation,
        "get_liveness",
        "Tell whether the process answers",
        "Asks no other server.",
    )
    .json::<schemas::Health>(200, "The process answers.", &[])
}

pub(crate) fn get_readiness() -> Doc {
    Doc::new(
        Tag::Operation, "get_readiness",
        "Tell whether the process can serve",
        "PostgreSQL with its schema, Redis, the projections and the tasks of the process. A lag does not make it \
         unready.",
    )
    .json::<schemas::Health>(200, "It can.", &[])
    .json::<schemas::Health>(503, "It cannot; `checks` says why.", &[])
}

pub(crate) fn get_metrics() -> Doc {
    Doc::new(Tag::Operation, "get_metrics", "Measure", "Metrics in the text format of Prometheus.")
        .text(200, "The metrics.", "text/plain", &[])
}

pub(crate) fn get_keys() -> Doc {
    Doc::new(
        Tag::Operation, "get_keys",
        "Read the public keys",
        "The keys that verify tokens (RFC 7517). Other services can verify a token by them, but only this one knows \
         whether its session is still open.",
    )
    .json::<schemas::KeySet>(200, "The keys.", &[])
}

pub(crate) fn get_openapi() -> Doc {
    Doc::new(
        Tag::Operation,
        "get_openapi",
        "Read this document",
        "The OpenAPI document of the service.",
    )
    .json::<schemas::Document>(200, "The document.", &["vary"])
}

pub(crate) fn get_docs() -> Doc {
    Doc::new(
        Tag::Operation,
        "get_docs",
        "Show this document as a page",
        "Swagger UI, from the service itself.",
    )
    .text(200, "The page.", "text/html", &[])
}

pub(crate) fn get_docs_file() -> Doc {
    Doc::new(Tag::Operation, "get_docs_file", "Read a file of that page", "Its scripts and styles.")
        .path("file", "The name of the file.", string())
        .text(200, "The file.", "text/javascript", &["vary"])
        .also_text("text/css")
        .problems(&[&NOT_FOUND])
}

pub(crate) fn get_problem_type() -> Doc {
    Doc::new(
        Tag::Operation,
        "get_problem_type",
        "Explain a type of error",
        "What an error means and what to do about it: a page, or JSON if `Accept` prefers it.",
    )
    .path("slug", "The last segment of the member `type` of an error.", string())
    .headers(&["accept"])
    .json::<schemas::ProblemType>(200, "The explanation.", &["vary"])
    .also_text("text/html")
    .problems(&[&NOT_FOUND])
}
