//! Searches among a million customers, beside the list of the youngest: one request at a time, in turn, a page of 100 each.
//! First names and family names are of unequal frequency, as those of people are; each request has another prefix.
//! `script/bench search` starts the servers and runs it. It prints tables in Markdown.
//!
//! `BENCH_CUSTOMERS` (1,000,000) and `BENCH_ROUNDS` (200) set the size of the run.

#![expect(clippy::unwrap_used, reason = "a benchmark that fails should stop")]

mod service;

use std::process::Stdio;
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::time::Instant;

use crate::service::{Service, customers, number, quantile};

/// The list that the searches are compared with.
const YOUNGEST: &str = "/customers?limit=100";

/// How much longer a search may take than the list.
const FLOOR: f64 = 1.5;

/// Syllables of names.
const SYLLABLES: &str = "'an,be,ca,do,el,fi,ga,ho,is,jo,ka,lu,ma,ne,ol,pa,ri,sa,te,ul,va,wi,xe,yo,za,bra,cle,dri,flo,gre'";

/// $1 creates. A name is made of syllables by a number, and small numbers are more frequent than large ones.
const EVENTS: &str = "
    insert into events
    select n, 'customer', n::text, 1, 'CustomerCreated', '1',
           json_build_object('type', 'CustomerCreated',
               'name', initcap(syllable[1 + first % 30] || syllable[1 + first / 30 % 30] || syllable[1 + first / 900])
                       || ' ' ||
                       initcap(syllable[1 + last / 900 % 30] || syllable[1 + last % 30] || syllable[1 + last / 30 % 30]
                               || case when last >= 27000 then syllable[1 + last / 27000] else '' end),
               'dob', date '1940-01-01' + (n * 7919 % 25000)::int),
           '{}', gen_random_uuid(), timestamptz '2020-01-01' + n * interval '1 millisecond'
    from (
        select n, string_to_array(SYLLABLES, ',') as syllable,
               floor(power(random(), 3) * 3000)::int as first, floor(power(random(), 3) * 60000)::int as last
        from generate_series(1, $1) n
    ) people";

async fn fill(url: &str, people: i64) {
    assert!(customers(&["migrate"]).status().await.unwrap().success());
    let mut connection = PgConnection::connect(url).await.unwrap();
    let statement = EVENTS.replace("SYLLABLES", SYLLABLES);
    sqlx::query(&statement).bind(people).execute(&mut connection).await.unwrap();
    connection
        .execute("select setval('customer_ids', (select max(aggregate_id::bigint) from events))")
        .await
        .unwrap();
    connection.execute("vacuum analyze events").await.unwrap();
    for projection in ["customers", "customer_history", "customer_search"] {
        let mut rebuild = customers(&["projection", "rebuild", projection]);
        assert!(rebuild.stdout(Stdio::null()).status().await.unwrap().success());
    }
    connection.execute("vacuum analyze").await.unwrap();
}

/// The time of a request, and the number of customers in its answer.
async fn ask(service: &Service, path: &str) -> (Duration, u64) {
    let request = service.request(Method::GET, path);
    let began = Instant::now();
    let answer = request.send().await.unwrap();
    assert!(answer.status().is_success(), "{path}: {}", answer.status());
    let body = answer.bytes().await.unwrap();
    let took = began.elapsed();
    let body: Value = serde_json::from_slice(&body).unwrap();
    (took, body["number"].as_u64().unwrap())
}

/// Words of the names of some customers.
async fn words(service: &Service) -> Vec<String> {
    let (mut words, mut after) = (vec![], String::new());
    for _ in 0..20 {
        let path = format!("/customers?sort=created&limit=50{after}");
        let page = service.request(Method::GET, &path).send().await.unwrap();
        let page: Value = page.json().await.unwrap();
        for customer in page["customers"].as_array().unwrap() {
            words.extend(customer["name"].as_str().unwrap().split(' ').map(str::to_lowercase));
        }
        after = format!("&after={}", page["next"].as_str().unwrap());
    }
    words
}

#[tokio::main]
async fn main() {
    let url = std::env::var("DATABASE_URL").unwrap();
    let people = i64::try_from(number("BENCH_CUSTOMERS", 1_000_000)).unwrap();
    let rounds = usize::try_from(number("BENCH_ROUNDS", 200)).unwrap();
    fill(&url, people).await;
    let service = Service::start().await;
    let words = words(&service).await;
    println!("{people} customers, {rounds} requests of each kind.\n");
    println!(
        "| search | median, ms | p90, ms | the youngest 100, median, ms | ratio | floor | found, median |"
    );
    println!("|---|---|---|---|---|---|---|");
    let kinds = [
        (1, "dob"),
        (2, "dob"),
        (3, "dob"),
        (4, "dob"),
        (6, "dob"),
        (3, "name"),
        (3, "created"),
        (3, "updated"),
    ];
    let mut paths: Vec<(String, Vec<String>)> = vec![];
    for (length, sort) in kinds {
        let prefixes = words.iter().cycle().step_by(7).filter(|word| word.len() >= length);
        let path =
            |word: &String| format!("/customers?name={}&sort={sort}&limit=100", &word[..length]);
        let what = format!("{length} letters, by {sort}");
        paths.push((what, prefixes.map(path).take(rounds).collect()));
    }
    for sort in ["name", "created", "updated"] {
        paths.push((
            format!("all, by {sort}"),
            vec![format!("/customers?sort={sort}&limit=100"); rounds],
        ));
    }
    let year = |number: usize| {
        let year = 1940 + number % 60;
        format!("/customers?born_from={year}-01-01&born_to={year}-12-31&limit=100")
    };
    paths.push(("born in a year".to_owned(), (0..rounds).map(year).collect()));
    paths.push(("the number of all".to_owned(), vec!["/customers?count=true".to_owned(); rounds]));
    let counted =
        |word: &String| format!("/customers?count=true&name={}", &word[..word.len().min(3)]);
    let counts = words.iter().cycle().step_by(7).map(counted).take(rounds).collect();
    paths.push(("the number with 3 letters".to_owned(), counts));
    for (what, paths) in paths {
        let (mut times, mut of_list, mut found) = (vec![], vec![], vec![]);
        for path in paths {
            let (took, number) = ask(&service, &path).await;
            times.push(took);
            found.push(number);
            of_list.push(ask(&service, YOUNGEST).await.0);
        }
        times.sort();
        of_list.sort();
        found.sort_unstable();
        let (median, p90, list) =
            (quantile(&times, 0.5), quantile(&times, 0.9), quantile(&of_list, 0.5));
        let found = found[found.len() / 2];
        println!(
            "| {what} | {median:.2} | {p90:.2} | {list:.2} | {:.2}x | {FLOOR}x | {found} |",
            median / list
        );
    }
}
