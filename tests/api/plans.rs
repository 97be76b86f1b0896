//! The plans of the hot statements on a large log: none reads, sorts or skips more rows than its answer
//! needs. PostgreSQL itself writes each plan that it has carried out (auto_explain).

use std::sync::Arc;

use customers::clock::Clock;
use customers::dev::{Options, Servers};
use customers::events::values::Role;
use customers::schema;
use reqwest::Method;
use secrecy::SecretString;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::harness::{Login, Service, With as _, config_on, folder, postgres_alone, send, until};

/// How many customers there are.
const CUSTOMERS: usize = 30_000;

/// How many rows a step of a plan may touch: more than the largest page, far fewer than there are.
const ROWS_MAX: f64 = 3_000.0;

const EXPLAIN: [&str; 9] = [
    "session_preload_libraries=auto_explain",
    "auto_explain.log_min_duration=0",
    "auto_explain.log_analyze=on",
    "auto_explain.log_timing=off",
    "auto_explain.log_nested_statements=on",
    "auto_explain.log_format=json",
    "auto_explain.log_parameter_max_length=0",
    "jit=on",
    "jit_above_cost=0",
];

/// Of rare and of frequent prefixes, in each order.
const SEARCHES: [&str; 10] = [
    "name=name%201234&limit=10",
    "name=n&limit=10",
    "name=23&sort=name&limit=10",
    "name=2&sort=created&limit=10",
    "sort=name&limit=100",
    "sort=updated&limit=100",
    "born_from=1990-01-01&born_to=1990-12-31&limit=100",
    "external_id=none",
    "count=true",
    "count=true&name=name%201234",
];

/// A service on a PostgreSQL that writes its plans.
struct Explained {
    service: Service,
    admin: Login,
    folder: std::path::PathBuf,
    _servers: Servers,
}

impl Explained {
    async fn start() -> Self {
        let folder = folder("plans");
        let settings = EXPLAIN.map(str::to_owned).to_vec();
        let options = Options { settings, ..postgres_alone(&folder, [7; 32]) };
        let servers = Servers::start(options).await.unwrap();
        let url = servers.database_url().unwrap().to_owned();
        schema::migrate(&SecretString::from(url.clone()), None).await.unwrap();
        let service = Service::with(config_on(&url)).await;
        let admin = service.log_in_as(Role::Admin).await;
        let line = |number: usize| {
            let (year, month, day) = (1930 + number % 90, 1 + number % 12, 1 + number % 28);
            format!("Name {number},{year}-{month:02}-{day:02}\n")
        };
        let lines: String =
            std::iter::once("name,dob\n".to_owned()).chain((0..CUSTOMERS).map(line)).collect();
        let import = service.post("/customers/import").header("content-type", "text/csv");
        let imported = send(import.login(&admin).body(lines)).await;
        assert_eq!(imported.status, 200, "{}", imported.text.get(..500).unwrap_or_default());
        service.caught_up().await;
        PgConnection::connect(&url).await.unwrap().execute("vacuum analyze").await.unwrap();
        Self { service, admin, folder, _servers: servers }
    }

    /// The statements, with their plans, that PostgreSQL has carried out since `from` bytes of its log.
    fn plans(&self, from: usize) -> Vec<(String, Value)> {
        let log = self.log();
        let mut lines = log[from..].lines().peekable();
        let mut plans = vec![];
        while let Some(line) = lines.next() {
            if !line.contains(" plan:") {
                continue;
            }
            let mut text = String::new();
            while let Some(line) = lines.next_if(|line| line.starts_with('\t')) {
                text.push_str(line);
                text.push('\n');
            }
            let plan: Value = serde_json::from_str(&text).unwrap();
            let statement = plan["Query Text"].as_str().unwrap().to_owned();
            // The first statements of a connection come before its settings.
            let is_first =
                statement.contains("select pg_catalog.") || statement.contains("set_config");
            assert!(plan.get("JIT").is_none() || is_first, "compiled: {statement}");
            plans.push((statement, plan["Plan"].clone()));
        }
        plans
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("postgres.log")).unwrap()
    }
}

/// The steps of a plan that touch more rows than allowed: their kind, their table, and the rows.
fn large_steps(plan: &Value, found: &mut Vec<String>) {
    let number = |name: &str| plan[name].as_f64().unwrap_or(0.0);
    let loops = number("Actual Loops");
    let skipped =
        ["Rows Removed by Filter", "Rows Removed by Join Filter", "Rows Removed by Index Recheck"];
    let rows =
        loops * (number("Actual Rows") + skipped.iter().map(|name| number(name)).sum::<f64>());
    if rows > ROWS_MAX {
        let relation = plan["Relation Name"].as_str().unwrap_or_default();
        found.push(format!("{} {relation}: {rows} rows", plan["Node Type"]));
    }
    for child in plan["Plans"].as_array().into_iter().flatten() {
        large_steps(child, found);
    }
}

/// The filters of the log. Nearly all events are of one request and one session, those of the import.
async fn reads_of_events(service: &Service, admin: &Login, now: &str) -> Vec<String> {
    let of_import = service.get("/events?type=CustomerCreated&limit=1").login(admin);
    let of_import = &send(of_import).await.body["events"][0];
    let at = of_import["recorded_at"].as_str().unwrap();
    let [large, session] =
        ["request_id", "session"].map(|name| of_import["metadata"][name].as_str().unwrap());
    let create = service.post("/customers").login(admin).header("x-request-id", "rare");
    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    assert_eq!(send(create.json(&ada)).await.status, 201);
    vec![
        "/events?aggregate_type=customer&limit=100".to_owned(),
        format!("/events?request_id={large}&after=15000&limit=100"),
        "/events?request_id=rare".to_owned(),
        "/events?request_id=none".to_owned(),
        format!("/events?session={session}&after=15000&limit=100"),
        "/events?session=none&actor=admin".to_owned(),
        format!("/events?from={at}&limit=100"),
        format!("/events?to={now}&limit=100"),
        format!("/customers/15000/history?from={at}&to={now}"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_hot_statement_is_compiled_or_reads_or_sorts_more_than_its_answer_needs() {
    let explained = Arc::new(Explained::start().await);
    let Explained { service, admin, .. } = &*explained;
    let send_as = async |method: Method, path: &str, body: Option<Value>| {
        let request = service.request(method, path).login(admin);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let answer = send(request).await;
        assert!((200..300).contains(&answer.status), "{path}: {answer:?}");
        answer
    };
    let page = send_as(Method::GET, "/customers?limit=100", None).await;
    let next = page.body["next"].as_str().unwrap();
    let ada = json!({"name": "Ada", "dob": "1990-12-10"});
    let grace = json!({"name": "Grace", "dob": "1990-12-10"});
    let moment = customers::clock::rfc3339(Clock::system().now());
    // The first time, all are counted.
    send_as(Method::GET, "/customers?count=true", None).await;
    let requests = [
        (Method::GET, "/customers?numbers=10".to_owned(), None),
        (Method::GET, "/customers?numbers=1000".to_owned(), None),
        (Method::GET, format!("/customers?limit=100&after={next}"), None),
        (Method::GET, "/customers/15000".to_owned(), None),
        (Method::GET, "/customers/15000/history".to_owned(), None),
        (Method::GET, "/customers/15000?version=1".to_owned(), None),
        (Method::GET, format!("/customers?numbers=10&as_of={moment}"), None),
        (Method::GET, "/events?after=15000&limit=100".to_owned(), None),
        (Method::POST, "/customers".to_owned(), Some(ada.clone())),
        (Method::PUT, "/customers/15000".to_owned(), Some(grace)),
        (Method::DELETE, "/customers/15001".to_owned(), None),
        (Method::GET, "/sessions".to_owned(), None),
    ];
    let searches = SEARCHES.map(|search| (Method::GET, format!("/customers?{search}"), None));
    let of_events = reads_of_events(service, admin, &moment).await.into_iter();
    let of_events = of_events.map(|path| (Method::GET, path, None));
    for (method, path, body) in requests.into_iter().chain(of_events).chain(searches) {
        // Often enough that PostgreSQL plans for any parameters, too.
        for round in 0..8 {
            let path = path.replace("15001", &(15_001 + round).to_string());
            let body = body.clone().map(|mut body| {
                body["name"] = json!(format!("Ada {round}"));
                body
            });
            let from = explained.log().len();
            send_as(method.clone(), &path, body).await;
            service.caught_up().await;
            let mut found = vec![];
            let plans = explained.plans(from);
            for (statement, plan) in &plans {
                let mut steps = vec![];
                large_steps(plan, &mut steps);
                found.extend(steps.into_iter().map(|step| format!("{step} in {statement}")));
            }
            assert!(found.is_empty(), "{method} {path}: {}", found.join("\n"));
            if path.starts_with("/customers") && round > 0 {
                assert!(!plans.is_empty(), "{method} {path}: no plan was written");
            }
        }
    }
    // A log-in, and that the test can fail: a list of all customers does touch all rows.
    let from = explained.log().len();
    service.log_in("admin").await;
    send_as(Method::GET, "/customers", None).await;
    until("the plan of the whole list is written", async || {
        let mut steps = vec![];
        explained.plans(from).iter().for_each(|(_, plan)| large_steps(plan, &mut steps));
        !steps.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_projector_that_began_on_an_empty_log_reads_each_page_by_the_index() {
    let explained = Explained::start().await;
    // Nothing had counted the rows of the log yet: the plans were those of the start.
    let pages = explained.plans(0).into_iter().filter(|(query, _)| query.contains("next_page"));
    let pages: Vec<Value> = pages.map(|(_, plan)| plan).collect();
    assert!(pages.len() > 2 * CUSTOMERS / 1_000, "{} pages", pages.len());
    let mut steps = vec![];
    for plan in &pages {
        large_steps(plan, &mut steps);
    }
    assert!(steps.is_empty(), "{steps:?}");
}
