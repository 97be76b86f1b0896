//! The OpenAPI document (OpenAPI 3.1.1), made from the table of routes: method, path, role, limits, and the errors
//! that follow from them come from a row, and what it says to its callers from its documentation.

/// The documentation of a route.
pub mod doc;

/// The headers of requests and answers.
mod headers;

/// The JSON shapes of requests and answers.
mod schemas;

/// Schemas of plain values.
mod plain;

/// The examples of answers.
mod examples;

/// The documentation of log-in, log-out and sessions.
mod sessions;

/// The documentation of accounts and their service keys.
mod accounts;

/// The documentation of customers.
mod customers;

/// The documentation of the log.
mod events;

/// The documentation of projections, health, metrics and keys.
mod operation;

use std::collections::{BTreeMap, BTreeSet};

use strum::VariantArray as _;
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder, PathsBuilder};
use utoipa::openapi::schema::Components;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    ComponentsBuilder, Content, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, PathItem,
    Ref, Response, ResponseBuilder, Server,
};

pub(super) use self::accounts::*;
pub(super) use self::customers::*;
use self::doc::{Doc, NamedSchema, Tag, add_schema};
pub(super) use self::events::*;
pub(super) use self::operation::*;
pub(super) use self::sessions::*;
use super::problem_types::{self, ProblemType};
use super::route::{PROBES, Route};
use crate::events::values::Role;

/// The version of the API. A change that breaks clients raises the first number, an addition the second.
const VERSION: &str = "1.0.0";

const DESCRIPTION: &str = "\
A registry of customers whose every change is an event. Create, update and delete append events to a log; the lists are
read from a table that follows it, and every change waits until the lists show it.

- Log in with `POST /login`, and send its token as `Authorization: Bearer` together with its cookie. A program gets a
  token for a service key with `POST /oauth/token`, and sends it alone.
- Send each change with an `Idempotency-Key`, and repeat it when there is no answer: it is made once.
- Every error is a problem (RFC 9457), whose `type` is the address of its explanation.
- Members of answers, routes and parameters may be added: ignore what you do not know. Unknown members of a body are
  ignored; unknown query parameters are 400.
";

const TOKEN: &str = "token";
const COOKIE: &str = "cookie";

/// The document. `base` is the path of the public URL, and `cookie` the name of the session's cookie.
pub(super) fn document(routes: &[Route], base: &str, cookie: &str) -> OpenApi {
    let mut paths = PathsBuilder::new();
    let mut schemas = vec![];
    let problem = add_schema::<schemas::Problem>(&mut schemas);
    for route in routes {
        let doc = (route.doc)();
        schemas.extend(doc.schemas.iter().cloned());
        paths = paths.path(
            route.path,
            PathItem::new(http_method(route.method), operation(route, doc, &problem)),
        );
    }
    let info = InfoBuilder::new()
        .title("customers")
        .version(VERSION)
        .description(Some(DESCRIPTION))
        .license(Some(LicenseBuilder::new().name("MIT").identifier(Some("MIT")).build()));
    let tags = Tag::VARIANTS.iter().map(|tag| {
        TagBuilder::new().name(<&str>::from(tag)).description(Some(tag.description())).build()
    });
    OpenApiBuilder::new()
        .info(info)
        .servers(Some([Server::new(if base.is_empty() { "/" } else { base })]))
        .paths(paths)
        .components(Some(components(schemas, cookie)))
        .tags(Some(tags))
        .build()
}

fn components(schemas: Vec<NamedSchema>, cookie: &str) -> Components {
    let token = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some("The token of `POST /login` or `POST /oauth/token`."));
    let cookie = ApiKeyValue::with_description(
        cookie,
        "The cookie of `POST /login`. A session that is bound to it takes the token only together with it. The \
         sessions of `POST /oauth/token` have none.",
    );
    let mut components = ComponentsBuilder::new()
        .security_scheme(TOKEN, SecurityScheme::Http(token.build()))
        .security_scheme(COOKIE, SecurityScheme::ApiKey(ApiKey::Cookie(cookie)));
    for (name, schema) in schemas {
        components = components.schema(name, schema);
    }
    for (name, header) in headers::of_answers() {
        components = components.header(name, header);
    }
    components.build()
}

fn operation(route: &Route, doc: Doc, problem: &Ref) -> Operation {
    let doc = if route.method == "GET" { of_read(doc) } else { doc };
    let problems = problems(route, &doc);
    let mut operation = OperationBuilder::new()
        .tag(<&str>::from(doc.tag))
        .operation_id(Some(doc.operation_id))
        .summary(Some(doc.summary))
        .description(Some(described(route, &doc)))
        .parameters(Some(doc.parameters))
        .request_body(doc.body);
    let mut answers: BTreeMap<u16, Response> = doc.answers.into_iter().collect();
    for (status, types) in by_status(&problems) {
        let answer = answers.entry(status).or_insert_with(|| failure(status, &types));
        let content = Content::new(Some(problem.clone()));
        answer.content.insert("application/problem+json".to_owned(), content.into());
    }
    for (status, mut answer) in answers {
        examples::add(route, status, &mut answer);
        operation = operation.response(status.to_string(), answer);
    }
    let token = SecurityRequirement::new(TOKEN, Vec::<String>::new());
    match route.role {
        Some(role) => operation
            .security(token.clone().add(COOKIE, Vec::<String>::new()))
            .security(token)
            .extensions(Some(
                ExtensionsBuilder::new().add("x-required-role", role.as_str()).build(),
            ))
            .build(),
        None => operation.securities(Some([])).build(),
    }
}

/// The statuses of the answers of a route.
pub(super) fn statuses(route: &Route) -> BTreeSet<u16> {
    let doc = (route.doc)();
    let doc = if route.method == "GET" { of_read(doc) } else { doc };
    let problems = problems(route, &doc).into_iter().map(|problem| problem.status.as_u16());
    doc.answers.iter().map(|(status, _)| *status).chain(problems).collect()
}

/// Every read compares conditions: see `api::conditions`. A 304 has the headers of the 200.
fn of_read(doc: Doc) -> Doc {
    let mut doc = doc
        .headers(&["if-match", "if-none-match"])
        .empty(304, "What If-None-Match names is what there is.", &["etag", "vary"])
        .problems(&[&problem_types::VERSION_MISMATCH]);
    let of_whole = doc.answers.iter().find(|(status, _)| *status == 200);
    let of_whole = of_whole.map(|(_, answer)| answer.headers.clone()).unwrap_or_default();
    if let Some((_, unchanged)) = doc.answers.last_mut() {
        unchanged.headers.extend(of_whole);
    }
    doc
}

/// The description, with the role.
fn described(route: &Route, doc: &Doc) -> String {
    match route.role {
        None => format!("{} Needs no log-in.", doc.description),
        Some(Role::Viewer) => format!("{} Every account may ask.", doc.description),
        Some(role) => format!("{} Needs the role {role}.", doc.description),
    }
}

/// The problems of a route: those that it names, and those that follow from its row.
fn problems(route: &Route, doc: &Doc) -> Vec<&'static ProblemType> {
    use problem_types::{
        FORBIDDEN, INTERNAL, INVALID, MALFORMED, NOT_ACCEPTABLE, RATE_LIMITED, TOKEN_REPLAY,
        TOO_LARGE, UNAUTHENTICATED, UNAVAILABLE, UNSUPPORTED_MEDIA_TYPE,
    };
    let mut problems = doc.problems.clone();
    // A body that is too large is refused on every route.
    problems.extend([&MALFORMED, &TOO_LARGE, &RATE_LIMITED, &INTERNAL, &UNAVAILABLE]);
    if !PROBES.contains(&route.path) {
        problems.push(&NOT_ACCEPTABLE);
    }
    if let Some(role) = route.role {
        problems.extend([&UNAUTHENTICATED, &TOKEN_REPLAY]);
        if role != Role::Viewer {
            problems.push(&FORBIDDEN);
        }
    }
    if let Some(body) = &doc.body {
        problems.push(&UNSUPPORTED_MEDIA_TYPE);
        if body.content.contains_key("application/json") {
            problems.push(&INVALID);
        }
    }
    problem_types::ALL.into_iter().filter(|known| problems.contains(known)).collect()
}

fn by_status(problems: &[&'static ProblemType]) -> BTreeMap<u16, Vec<&'static ProblemType>> {
    let mut by_status: BTreeMap<u16, Vec<&'static ProblemType>> = BTreeMap::new();
    for problem in problems {
        by_status.entry(problem.status.as_u16()).or_default().push(problem);
    }
    by_status
}

/// The answer of a status that only problems have.
fn failure(status: u16, types: &[&'static ProblemType]) -> Response {
    let names: Vec<String> =
        types.iter().map(|kind| format!("{} (`/problems/{}`)", kind.title, kind.slug)).collect();
    let own: &[&str] = match status {
        401 => &["www-authenticate"],
        415 => &["accept", "accept-encoding"],
        429 | 503 => &["retry-after"],
        _ => &[],
    };
    let mut answer = ResponseBuilder::new().description(format!("{}.", names.join(" or ")));
    for name in headers::OF_EVERY_ANSWER.iter().chain(own) {
        answer = answer.header_ref(*name, headers::reference(name));
    }
    answer.build()
}

fn http_method(name: &str) -> HttpMethod {
    match name {
        "GET" => HttpMethod::Get,
        "POST" => HttpMethod::Post,
        "PUT" => HttpMethod::Put,
        "PATCH" => HttpMethod::Patch,
        "DELETE" => HttpMethod::Delete,
        name => unreachable!("the method {name} has no name in OpenAPI"),
    }
}
