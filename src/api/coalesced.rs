//! Reads of the present that requests share: those that arrive while one is under way are answered together
//! by the next one. It begins after they have arrived, so no request gets an older state than alone.

use super::customer_json::{Customer, MarkedJson};
use super::error::ApiError;
use super::pool_choice::{PoolKind, Source};
use super::read_your_writes;
use super::state::Api;
use crate::events::values::CustomerId;
use crate::projections::customers::{self, Customers, Row};

/// A customer as it is now.
pub(super) async fn customer(
    api: &Api,
    source: Source,
    id: CustomerId,
) -> Result<Option<Row>, ApiError> {
    let of_all = api.clone();
    let answer = move |source, ids: Vec<CustomerId>| {
        let api = of_all.clone();
        async move {
            match find(&api, source, None, &ids).await {
                Ok(rows) => rows.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error); ids.len()],
            }
        }
    };
    api.customer_reads.ask(source, id, answer).await.unwrap_or_else(panicked)
}

/// Customers of a state that shows the position, in the order of their ids.
pub(super) async fn find(
    api: &Api,
    source: Source,
    position: Option<i64>,
    ids: &[CustomerId],
) -> Result<Vec<Option<Row>>, ApiError> {
    let kind = PoolKind::Short;
    let mut db = read_your_writes::reader(api, source, kind, &Customers, position).await?;
    Ok(customers::find(&mut db, ids).await?)
}

/// The `number` youngest customers as they are now.
pub(super) async fn youngest(
    api: &Api,
    source: Source,
    number: i64,
) -> Result<MarkedJson, ApiError> {
    let of_all = api.clone();
    let answer = move |(source, number), requests: Vec<()>| {
        let api = of_all.clone();
        async move { vec![read_youngest(&api, source, number).await; requests.len()] }
    };
    api.youngest_reads.ask((source, number), (), answer).await.unwrap_or_else(panicked)
}

async fn read_youngest(api: &Api, source: Source, number: i64) -> Result<MarkedJson, ApiError> {
    let kind = PoolKind::Short;
    let mut db = read_your_writes::reader(api, source, kind, &Customers, None).await?;
    let (mark, rows) = customers::youngest_with_mark(&mut db, None, number).await?;
    let mut json = format!("{{\"number\":{},\"customers\":", rows.len()).into_bytes();
    let customers: Vec<_> = rows.iter().map(Customer::from).collect();
    serde_json::to_writer(&mut json, &customers)
        .map_err(|error| ApiError::Internal(error.to_string()))?;
    json.push(b'}');
    Ok(MarkedJson { json: json.into(), mark })
}

fn panicked<T>() -> Result<T, ApiError> {
    Err(ApiError::Internal("a read has panicked".to_owned()))
}
