//! Invalid bodies: the service refuses each with the right 4xx status, names each invalid member, and
//! appends no event. A snapshot has one line per request.

pub mod table;

use customers::events::values::Role;
use reqwest::Method;

use self::table::{Table, born, named};
use crate::harness::{Service, With as _, send};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_the_json_asked_for_is_refused() {
    let mut table = Table::start().await;
    let deep = format!("{}1{}", "[".repeat(500), "]".repeat(500));
    let deep_member = format!(r#"{{"name":"Ada","dob":"1990-12-10","x":{deep}}}"#);
    let broken: [(&str, &[u8]); 18] = [
        ("empty", b""),
        ("spaces", b" \n "),
        ("half", br#"{"name":"Ada","#),
        ("single quotes", b"{'name':'Ada','dob':'1990-12-10'}"),
        ("comma behind the last", br#"{"name":"Ada","dob":"1990-12-10",}"#),
        ("something behind it", br#"{"name":"Ada","dob":"1990-12-10"} {}"#),
        ("a form", b"name=Ada&dob=1990-12-10"),
        ("NaN", br#"{"name":NaN,"dob":"1990-12-10"}"#),
        ("a raw newline", b"{\"name\":\"A\nda\",\"dob\":\"1990-12-10\"}"),
        ("a raw NUL", b"{\"name\":\"A\0da\",\"dob\":\"1990-12-10\"}"),
        ("a lone high surrogate", br#"{"name":"\ud800","dob":"1990-12-10"}"#),
        ("a lone low surrogate", br#"{"name":"\udc00","dob":"1990-12-10"}"#),
        ("two high surrogates", br#"{"name":"\ud83d\ud83d","dob":"1990-12-10"}"#),
        ("a lone surrogate elsewhere", br#"{"name":"Ada","dob":"1990-12-10","\ud800":1}"#),
        ("bytes that are not UTF-8", b"{\"name\":\"A\xff\",\"dob\":\"1990-12-10\"}"),
        ("UTF-16", b"\xff\xfe{\0}\0"),
        ("deep", deep.as_bytes()),
        ("a deep unknown member", deep_member.as_bytes()),
    ];
    for (what, body) in broken {
        table.json(Method::POST, "/customers", what, body.to_vec()).await;
    }
    for (path, what) in [("/customers/create", "half"), ("/customers/update", "half")] {
        table.json(Method::POST, path, what, r#"{"name":"#).await;
    }
    table.json(Method::PUT, "/customers/1", "half", r#"{"name":"#).await;
    table.json(Method::POST, "/login", "half", r#"{"username":"#).await;
    table.json(Method::POST, "/password", "half", r#"{"old":"#).await;
    for body in ["null", "true", "7", r#""Ada""#, "[]", r#"[{"name":"Ada","dob":"1990-12-10"}]"#] {
        table.json(Method::POST, "/customers", body, body).await;
    }
    insta::assert_snapshot!("bad_json", table.lines().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_members_that_are_wrong_are_named_at_once() {
    let mut table = Table::start().await;
    for path in ["/customers", "/customers/create", "/customers/update"] {
        for body in [
            "{}",
            r#"{"Name":"Ada","DOB":"1990-12-10"}"#,
            r#"{"id":null,"name":null,"dob":null}"#,
            r#"{"id":"1","name":1,"dob":19901210}"#,
            r#"{"id":[1],"name":["Ada"],"dob":{"y":1990}}"#,
            r#"{"id":true,"name":" ","dob":"2001-02-29"}"#,
        ] {
            table.json(Method::POST, path, body, body).await;
        }
    }
    for body in ["{}", r#"{"name":true,"dob":""}"#, r#"{"id":0,"name":"","dob":"1990-12-10"}"#] {
        table.json(Method::PUT, "/customers/1", body, body).await;
    }
    for body in ["{}", r#"{"username":1,"password":null,"binding":7}"#, r#"{"binding":"ip"}"#] {
        table.json(Method::POST, "/login", body, body).await;
    }
    for body in ["{}", r#"{"old":1,"new":"short"}"#] {
        table.json(Method::POST, "/password", body, body).await;
    }
    let long = format!(r#"{{"old":"x","new":"{}"}}"#, "x".repeat(1025));
    table.json(Method::POST, "/password", "a new one of 1025 bytes", long).await;
    insta::assert_snapshot!("bad_members", table.lines().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_or_date_of_birth_that_is_none_is_refused() {
    let mut table = Table::start().await;
    let composing = "e\u{301}".repeat(129);
    let growing = "\u{fb1d}".repeat(65);
    for (what, name) in [
        ("empty", ""),
        ("blank", "   "),
        ("blank in other ways", "\u{a0}\u{2003}\u{3000}\t\n"),
        ("NUL", "A\0da"),
        ("escape", "A\u{1b}[31mda"),
        ("tab inside", "A\tda"),
        ("newline inside", "A\nda"),
        ("delete", "A\u{7f}da"),
        ("C1", "A\u{85}da"),
        ("NUL alone", "\0"),
        ("129 letters", &"x".repeat(129)),
        ("129 beyond the basic plane", &"\u{1f4af}".repeat(129)),
        ("129 after composing", &composing),
        ("65 that become 130", &growing),
        ("60,000 letters", &"x".repeat(60_000)),
    ] {
        table.json(Method::POST, "/customers", what, named(name)).await;
        table.json(Method::PUT, "/customers/1", what, named(name)).await;
    }
    let today = table.service.hands.clock().today();
    let tomorrow = today.succ_opt().unwrap().to_string();
    for (what, dob) in [("tomorrow", tomorrow.as_str()), ("NUL at the end", "1990-12-1\0")] {
        table.json(Method::POST, "/customers", what, born(dob)).await;
    }
    for dob in "|2001-02-29|1900-02-29|2001-04-31|2001-13-01|2001-00-10|2001-01-00|\
        1899-12-31|0000-01-01|0000-00-00|9999-12-31|2001-2-9|2001-02-9| 2001-02-09|\
        2001-02-09 |20010-01-01|+001-01-01|-001-01-01|20010209|2001/02/09|\
        09-02-2001|2001-02-09T00:00:00Z|2001-W06-5|2001-040|٢٠٠١-٠٢-٠٩|yesterday"
        .split('|')
    {
        table.json(Method::POST, "/customers", dob, born(dob)).await;
    }
    insta::assert_snapshot!("bad_values", table.lines().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_of_128_characters_is_taken_however_it_is_written() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    for (sent, stored) in [
        ("x".repeat(128), "x".repeat(128)),
        ("\u{1f4af}".repeat(128), "\u{1f4af}".repeat(128)),
        ("e\u{301}".repeat(128), "é".repeat(128)),
        (format!(" {} ", "ᾂ".repeat(128)), "ᾂ".repeat(128)),
        ("\u{3b1}\u{313}\u{300}\u{345}".repeat(128), "ᾂ".repeat(128)),
    ] {
        let request = service.post("/customers").header("content-type", "application/json");
        let created = send(request.token(&admin).body(named(&sent))).await;
        assert_eq!((created.status, created.body["name"].as_str()), (201, Some(stored.as_str())));
    }
}
