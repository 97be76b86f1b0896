//! A page of customers, in every list that has pages.

use axum::Json;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;

use super::customer_json::Customer;
use super::state::Api;
use crate::projections::customers::Row;

/// A page of customers.
pub(super) struct PageOf<'a> {
    pub(super) rows: &'a [Row],
    /// The cursor of the next page.
    pub(super) next: Option<String>,
    /// The parameters of the next page, without the cursor.
    pub(super) link: Vec<(&'static str, String)>,
}

/// The answer with a page.
pub(super) fn page_response(api: &Api, page: PageOf<'_>) -> Response {
    #[derive(Serialize)]
    struct Page<'a> {
        number: usize,
        customers: Vec<Customer<'a>>,
        next: Option<String>,
    }
    let link = page.next.as_ref().map(|next| {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(page.link).append_pair("after", next);
        format!("<{}/customers?{}>; rel=\"next\"", api.public_path, query.finish())
    });
    let customers: Vec<_> = page.rows.iter().map(Customer::from).collect();
    let number = customers.len();
    let mut response = Json(Page { number, customers, next: page.next }).into_response();
    if let Some(link) = link.and_then(|link| HeaderValue::from_str(&link).ok()) {
        response.headers_mut().insert(header::LINK, link);
    }
    response
}
