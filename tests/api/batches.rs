//! A property of the group append: commands have the same outcomes together as one by one.

use customers::events::log::{Append, AppendError, Appender, IdempotencyKey, NewEvent, Outcome};
use customers::events::metadata::Metadata;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::harness::Service;

/// A generated command, before it has a namespace.
#[derive(Debug, Clone)]
struct Generated {
    customer: u8,
    /// The expected sequence; `None` accepts any.
    expected: Option<i64>,
    events: usize,
    poison: bool,
    /// The idempotency key and the fingerprint of its request.
    key: Option<(u8, u8)>,
}

fn generated() -> impl Strategy<Value = Generated> {
    let expected = prop_oneof![Just(None), (0..5_i64).prop_map(Some)];
    let key = prop::option::weighted(0.4, (0..4_u8, 0..2_u8));
    let poison = prop::bool::weighted(0.1);
    (0..5_u8, expected, 0..4_usize, poison, key).prop_map(
        |(customer, expected, events, poison, key)| {
            // Only a command with an idempotency key may have no event.
            let events = if key.is_none() { events.max(1) } else { events };
            Generated { customer, expected, events, poison, key }
        },
    )
}

impl Generated {
    fn append(&self, namespace: &str) -> Append {
        // Two customers each want one, and no customer gives it away: which has it depends on the order only.
        let external_id =
            (self.customer != 2).then(|| format!("{namespace}-{}", self.customer % 3));
        let member =
            external_id.as_ref().map_or(String::new(), |id| format!(r#","external_id":"{id}""#));
        let event = |n: usize| NewEvent {
            event_type: "CustomerUpdated".into(),
            event_version: "1".into(),
            payload: if self.poison && n == 0 {
                "{".to_owned()
            } else {
                format!(r#"{{"type":"CustomerUpdated","name":"A","dob":"1990-12-10"{member}}}"#)
            },
        };
        Append {
            command_id: customers::clock::new_id(),
            aggregate_type: "customer",
            aggregate_id: format!("{namespace}{}", self.customer),
            expected: self.expected,
            events: (0..self.events).map(event).collect(),
            metadata: Metadata::default().into(),
            key: self.key.map(|(key, fingerprint)| IdempotencyKey {
                account: namespace.to_owned(),
                key: key.to_string(),
                fingerprint: vec![fingerprint],
                known_position: 1,
            }),
            external_id: external_id.filter(|_| self.events > 0),
        }
    }
}

/// The outcomes without the values that differ between namespaces.
fn shapes(outcomes: Vec<Result<Outcome, AppendError>>) -> Vec<String> {
    let shape = |outcome| match outcome {
        Ok(Outcome::Appended(at)) => format!("appended, sequence {}", at.sequence),
        Ok(Outcome::Conflict { sequence }) => format!("conflict at {sequence}"),
        Ok(Outcome::ExternalIdTaken { customer }) => format!("that of customer {}", customer % 10),
        Ok(Outcome::Unchanged) => "unchanged".to_owned(),
        Ok(Outcome::Duplicate { fingerprint, .. }) => format!("known, {fingerprint:?}"),
        Err(AppendError::Refused(_)) => "refused".to_owned(),
        Err(error) => format!("{error}"),
    };
    outcomes.into_iter().map(shape).collect()
}

async fn stream(service: &Service, namespace: &str) -> Vec<(String, i64)> {
    let query = "select right(aggregate_id, 1), sequence from events
                 where aggregate_id like $1 || '_' order by 1, 2";
    sqlx::query_as(query).bind(namespace).fetch_all(&service.pools.short).await.unwrap()
}

#[test]
fn commands_have_the_same_outcomes_together_as_one_by_one() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let service = runtime.block_on(Service::start());
    let appender: Appender = service.pools.appender.clone();
    let config = ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() };
    let case = std::cell::Cell::new(0);
    proptest!(config, |(steps in prop::collection::vec(generated(), 1..60))| {
        case.set(case.get() + 1);
        runtime.block_on(async {
            let (alone, together) = (format!("1{:04}", case.get()), format!("2{:04}", case.get()));
            let mut one_by_one = vec![];
            for step in &steps {
                one_by_one.push(appender.append(step.append(&alone)).await);
            }
            let at_once = steps.iter().map(|step| appender.append(step.append(&together)));
            let at_once = futures_util::future::join_all(at_once).await;
            prop_assert_eq!(shapes(at_once), shapes(one_by_one));
            prop_assert_eq!(stream(&service, &together).await, stream(&service, &alone).await);
            let gaps: i64 = sqlx::query_scalar(
                "select coalesce(max(position), 0) - count(*) from events",
            )
            .fetch_one(&service.pools.short)
            .await
            .unwrap();
            prop_assert_eq!(gaps, 0);
            Ok::<(), TestCaseError>(())
        })?;
    });
    runtime.block_on(service.stop());
}
