//! The programs of docs/clients.md that need no package but those of the tests: they do what the page says that they
//! print. `script/interop` runs the others.

use customers::auth::password::Passwords;
use customers::commands::Bus;
use customers::demo;
use customers::events::metadata::Metadata;
use tokio::process::Command;

use crate::harness::Service;
use crate::nginx::{program, run};

#[path = "../../examples/client.rs"]
#[expect(dead_code, reason = "a test has no use for its main function")]
mod client;

fn page() -> String {
    std::fs::read_to_string("docs/clients.md").unwrap()
}

/// The first code block of a language.
fn block<'a>(text: &'a str, language: &str) -> &'a str {
    let (_, block) = text.split_once(&format!("```{language}\n")).unwrap();
    block.split_once("```").unwrap().0
}

/// Checks the lines of a program; `...` of the page stands for anything.
fn assert_printed(printed: &[String]) {
    let page = page();
    let expected: Vec<&str> = block(&page, "text").lines().collect();
    assert_eq!(printed.len(), expected.len(), "{printed:?}");
    for (line, expected) in printed.iter().zip(expected) {
        let fits = match expected.split_once("...") {
            None => line == expected,
            Some((start, end)) => line.starts_with(start) && line.ends_with(end),
        };
        assert!(fits, "{line:?} is not {expected:?}");
    }
}

/// A service with the demo account, and more customers than a page has.
async fn service() -> Service {
    let service = Service::start().await;
    demo::account(service.accounts(), &Passwords::new(), Metadata::of_program("test"))
        .await
        .unwrap();
    let bus = Bus::new(service.pools.appender.clone(), service.pools.short.clone());
    demo::create(&bus, 60, || ()).await.unwrap();
    service
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_program_in_rust_does_what_it_says() {
    let service = service().await;
    let printed = client::session(&format!("http://{}", service.address)).await.unwrap();
    assert_printed(&printed);
    assert_eq!(block(&page(), "rust"), std::fs::read_to_string("examples/client.rs").unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_program_with_curl_does_what_it_says() {
    if program("curl").is_none() {
        return;
    }
    let service = service().await;
    let (page, mut shell) = (page(), Command::new("sh"));
    shell.args(["-c", block(&page, "sh")]).env("API", format!("http://{}", service.address));
    let (succeeded, printed) = run(&mut shell).await;
    assert!(succeeded, "{printed}");
    assert_printed(&printed.lines().map(str::to_owned).collect::<Vec<_>>());
}
