//! Files of customers that other programs have written: encodings, line ends, delimiters, headers, names.

use customers::events::values::Role;
use serde_json::{Value, json};

use crate::harness::{Answer, Login, Service, With as _, folder, send};
use crate::transfer::{failed, log, run, stdout};

pub const NDJSON: &str = "application/x-ndjson";
pub const CSV: &str = "text/csv";

/// The bytes of a text in each encoding that is read.
pub fn encoded(text: &str) -> [Vec<u8>; 4] {
    let marked = format!("\u{feff}{text}");
    let utf16 =
        |bytes: fn(u16) -> [u8; 2]| marked.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
    [
        text.as_bytes().to_vec(),
        marked.clone().into_bytes(),
        utf16(u16::to_le_bytes),
        utf16(u16::to_be_bytes),
    ]
}

async fn import(service: &Service, login: &Login, kind: &str, body: impl Into<Vec<u8>>) -> Answer {
    let request = service.post("/customers/import").login(login).header("content-type", kind);
    send(request.body(body.into())).await
}

fn lines(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The names of all customers, oldest id first.
async fn names(service: &Service) -> Vec<String> {
    sqlx::query_scalar(
        "select payload ->> 'name' from events where event_type = 'CustomerCreated'
         order by position",
    )
    .fetch_all(&service.pools.long)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_encoding_line_end_and_delimiter_is_the_same_file() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let mut files = 0;
    for end in ["\n", "\r\n", "\r"] {
        for between in [",", ";", "\t"] {
            let csv = ["City", " DOB ", "NAME\nKöln", "1990-12-10", "\"Łódź; , \"\"😀\"\"\"\n\n"]
                .join(between)
                .replace('\n', end);
            for file in encoded(&csv) {
                let answer = import(&service, &editor, CSV, file).await;
                assert_eq!(lines(&answer)[0]["summary"]["created"], 1, "{csv:?} {answer:?}");
                assert_eq!(names(&service).await.pop().unwrap(), "Łódź; , \"😀\"");
                files += 1;
            }
        }
        let ndjson = format!("{{\"dob\":\"1990-12-10\",\"name\":\"Köln\"}}{end}{end}[]");
        for file in encoded(&ndjson) {
            let all = lines(&import(&service, &editor, NDJSON, file).await);
            let bad = json!({"line": 3, "errors": [
                {"field": "line", "detail": "must be a JSON object"}]});
            assert_eq!((&all[0], &all[1]["summary"]["created"]), (&bad, &json!(1)));
            files += 1;
        }
    }
    assert_eq!(names(&service).await.len(), files);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_csv_record_that_is_too_long_is_refused_alone() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let (long, longer) = ("x".repeat(70_000), "x".repeat(700_000));
    let before = "name,dob\nA,2000-01-01\n";
    let after = ",2000-01-01\nB,2000-01-01\n\"C\",2000-01-01\n";
    let too_long = "is longer than 65536 bytes";
    let on_line = |line| format!("{too_long}; is a quote not closed? it ends on line {line}");
    for (record, detail, next) in [
        (long.clone(), too_long.to_owned(), 4),
        (longer.clone(), too_long.to_owned(), 4),
        (format!("{long}\"y"), too_long.to_owned(), 4),
        (format!("\"{longer}\""), too_long.to_owned(), 4),
        (format!("\"{longer}\nX,2000-01-01\n{longer}\""), on_line(5), 6),
        (format!("{longer},\"a\nX,2000-01-01\n\""), on_line(5), 6),
    ] {
        // A bad line after it shows that the lines are still counted right.
        let file = format!("{before}{record}{after}D\n");
        let all = lines(&import(&service, &editor, CSV, file).await);
        let error = json!([{"field": "line", "detail": detail}]);
        assert_eq!(all[0], json!({"line": 3, "errors": error}));
        assert_eq!((&all[1]["line"], &all[2]["summary"]["created"]), (&json!(next + 2), &json!(3)));
        let all = names(&service).await;
        assert_eq!(all[all.len() - 3..], ["A", "B", "C"]);
    }
    // A quote that is not closed takes everything up to the next quote, or the rest of the file.
    let rest = "x,2000-01-01\n".repeat(20_000);
    for (next, detail, created) in [
        ("", format!("{too_long}; is a quote not closed? nothing after it was read"), 1),
        ("\"B\",2000-01-01\nC,2000-01-01\n", on_line(20_003), 2),
    ] {
        let file = format!("{before}\"{rest}{next}");
        let all = lines(&import(&service, &editor, CSV, file).await);
        let error = json!([{"field": "line", "detail": detail}]);
        assert_eq!(all[0], json!({"line": 3, "errors": error}));
        assert_eq!(all[1]["summary"]["created"], created);
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_text_is_refused_by_its_line_and_name() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    let latin1 =
        b"name,dob,city\nAda,1990-12-10,K\xf6ln\nM\xfcller,1990-12-10,x\nEve,1990-12-10,x\n";
    let all = lines(&import(&service, &editor, CSV, *latin1).await);
    let bad = |line: u32, detail: &str| json!({"line": line, "errors": [{"field": "line", "detail": detail}]});
    assert_eq!(all[..2], [bad(2, "is not UTF-8 (byte 0xF6)"), bad(3, "is not UTF-8 (byte 0xFC)")]);
    assert_eq!(all[2]["summary"]["created"], 1);
    // Also where a member is not read.
    let latin1 = b"{\"name\":\"Ada\",\"dob\":\"1990-12-10\",\"city\":\"K\xf6ln\"}";
    let all = lines(&import(&service, &editor, NDJSON, *latin1).await);
    assert_eq!(all[0], bad(1, "is not UTF-8 (byte 0xF6)"));

    let half = [encoded("name,dob\nAda,1990-12-10\n")[2].as_slice(), &[0x00, 0xD8]].concat();
    let all = lines(&import(&service, &editor, CSV, half).await);
    assert_eq!(all[0], bad(3, "is not UTF-16: half a character stands alone"));

    let unmarked = encoded("name,dob\nAda,1990-12-10\n")[2][2..].to_vec();
    let utf32: Vec<u8> = "\u{feff}name".chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
    for (file, field, expected) in [
        (b"name,dob,stra\xdfe\nAda,1990-12-10,x".to_vec(), "line", "is not UTF-8 (byte 0xDF)"),
        (unmarked, "line", "contains NUL: UTF-16 is read only with a byte order mark"),
        (utf32, "body", "is UTF-32: only UTF-8 and UTF-16 are read"),
        (
            b"PK\x03\x04\x14\0\x06\0".to_vec(),
            "body",
            "is an archive or a workbook (.zip, .xlsx, .ods): save it as CSV",
        ),
        (b"\x1f\x8b\x08\0".to_vec(), "body", "is compressed (gzip): unpack it first"),
    ] {
        let answer = import(&service, &editor, CSV, file).await;
        assert_eq!((answer.status, &answer.body["type"]), (422, &json!("/problems/invalid")));
        let error = json!([{"field": field, "detail": expected}]);
        assert_eq!(answer.body["errors"], error);
    }
    for (charset, status) in
        [("UTF-8", 200), ("\"us-ascii\"", 200), ("utf-16", 200), ("iso-8859-1", 415), ("x", 415)]
    {
        let kind = format!("text/csv; header=present; charset={charset}");
        let answer = import(&service, &editor, &kind, "name,dob\nAda,1990-12-10\n").await;
        assert_eq!(answer.status, status, "{kind}");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_without_customers_is_an_error() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    for empty in ["", "\u{feff}", "\n\r\n \r", "\u{feff}\n"] {
        for kind in [NDJSON, CSV] {
            let answer = import(&service, &editor, kind, empty).await;
            let error = json!([{"field": "body", "detail": "has no customers"}]);
            assert_eq!((answer.status, &answer.body["errors"]), (422, &error), "{empty:?}");
        }
    }
    for header in ["name,dob", "name;dob\r\n", "sep=;\r\nname;dob\r\n\r\n", "name\tdob\r"] {
        let answer = import(&service, &editor, CSV, header).await;
        assert_eq!(answer.body["errors"][0]["detail"], "has no customers", "{header:?}");
    }
    assert_eq!(names(&service).await, Vec::<String>::new());
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_is_read_as_spreadsheets_write_it() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    // The line in which the refused record stands, too.
    for (file, line) in [
        ("sep=;\r\nName;DoB\r\nAda;1990-12-10\r\nx;x\r\n", 4),
        ("\"sep=\t\"\r\nname\tdob\r\nAda\t1990-12-10\r\nx\tx\r\n", 4),
        ("\n\n name ;\u{a0}dob\u{a0};\"a, b; c\"\nAda;1990-12-10;1,5\nx;x;\n", 5),
        ("dob;\"two\nlines\";NAME\n1990-12-10;;Ada\nx;;x\n", 4),
        ("shoe 5\",name,dob\n1,Ada,1990-12-10\n1,x,x\n", 3),
        // What divides the columns is told by the header alone.
        ("name;dob\nAda;1990-12-10\nx,x\n", 3),
    ] {
        for kind in [CSV, "text/tab-separated-values"] {
            let all = lines(&import(&service, &editor, kind, file).await);
            assert_eq!(all.len(), 2, "{file:?} {all:?}");
            assert_eq!(all[0]["line"], line, "{file:?}");
            assert_eq!(all[1]["summary"]["created"], 1, "{file:?}");
        }
    }
    assert!(names(&service).await.iter().all(|name| name == "Ada"));
    // A file that is cut off in a quote.
    for cut in ["dob,name\n1990-12-10,Ada\n1990-12-10,\"Ad", "dob,name\n1990-12-10,Ada\n\"\n\n"] {
        let all = lines(&import(&service, &editor, CSV, cut).await);
        let error = json!([{"field": "line", "detail": "has a quote that is not closed"}]);
        assert_eq!((&all[0]["line"], &all[0]["errors"]), (&json!(3), &error), "{cut:?}");
        assert_eq!(all[1]["summary"]["created"], 1);
    }
    for (header, errors) in [
        ("name|dob", [("name", "is missing"), ("dob", "is missing")].as_slice()),
        ("name;name", &[("name", "is twice"), ("dob", "is missing")]),
        ("sep=,\nname;dob", &[("name", "is missing"), ("dob", "is missing")]),
        ("sep=|\nname|dob", &[("name", "is missing"), ("dob", "is missing")]),
        ("name,dob;NAME", &[("dob", "is missing")]),
    ] {
        let answer = import(&service, &editor, CSV, format!("{header}\nAda;1990-12-10\n")).await;
        assert_eq!(answer.status, 422, "{header:?} {answer:?}");
        let told = answer.body["errors"].as_array().unwrap();
        assert_eq!(told.len(), errors.len(), "{header:?} {told:?}");
        for (told, (field, detail)) in told.iter().zip(errors) {
            assert_eq!(told["field"], *field, "{header:?}");
            assert!(told["detail"].as_str().unwrap().starts_with(detail), "{header:?} {told}");
        }
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_knows_a_file_by_its_name_and_fails_if_nothing_was_imported() {
    let service = Service::start().await;
    let (url, place) = (service.database_url(), folder("import_files"));
    let ndjson = "{\"name\":\"Ada\",\"dob\":\"1990-12-10\"}\r\n";
    for (name, file) in [
        ("PEOPLE.CSV", "name;dob\rAda;1990-12-10\r"),
        ("People.Tsv", "name\tdob\nAda\t1990-12-10\n"),
        ("people.NDJSON", ndjson),
        ("people.JsonL", ndjson),
    ] {
        std::fs::write(place.join(name), encoded(file)[2].as_slice()).unwrap();
        let told = stdout(url, &place, &["import", name, "--strict"]).await;
        assert!(told.starts_with("{\"summary\":{\"lines\":1,\"created\":1,"), "{name}: {told}");
    }
    let before = log(url).await.len();
    for (name, file, problem) in [
        ("empty.csv", "", "the file has no customers"),
        ("header.csv", "\u{feff}name,dob\r\n", "the file has no customers"),
        ("empty.ndjson", "\n", "the file has no customers"),
        ("people.xlsx.csv", "PK\x03\x04", "save it as CSV"),
        ("refused.csv", "name,dob\nAda,x\n", "nothing was imported: all lines were refused"),
    ] {
        std::fs::write(place.join(name), file).unwrap();
        let (_, told) = failed(url, &place, &["import", name]).await;
        assert!(told.contains(problem), "{name}: {told}");
    }
    std::fs::write(place.join("people.json"), ndjson).unwrap();
    let output = run(url, &place, &["import", "people.json"]).await;
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), told.contains("--format")), (Some(2), true), "{told}");
    assert_eq!(log(url).await.len(), before);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_names_the_line_of_a_header_that_it_refuses() {
    let service = Service::start().await;
    let (url, place) = (service.database_url(), folder("import_files"));
    for (file, line) in [
        ("foo;bar\nx;y\n".to_owned(), 1),
        ("\n\nsep=;\nfoo;bar\nx;y\n".to_owned(), 4),
        ("\r\rfoo;bar\r".to_owned(), 3),
        ("\n\"two\nlines\";name\n".to_owned(), 2),
        (format!("\n\n{}\n", "x".repeat(70_000)), 3),
    ] {
        std::fs::write(place.join("people.csv"), &file).unwrap();
        for options in [&[][..], &["--strict"]] {
            let import = [&["import", "people.csv"], options].concat();
            let (told, _) = failed(url, &place, &import).await;
            let told: Value = serde_json::from_str(&told).unwrap();
            assert_eq!(told["line"], line, "{told}");
            assert!(told["errors"][0]["detail"].is_string(), "{told}");
        }
    }
    std::fs::write(place.join("people.csv"), b"\nname,dob,stra\xdfe\nAda,1990-12-10,x\n").unwrap();
    let (told, _) = failed(url, &place, &["import", "people.csv"]).await;
    assert!(told.starts_with(r#"{"line":2,"errors":[{"field":"line""#), "{told}");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_without_a_cell_that_is_filled_are_empty_lines() {
    let service = Service::start().await;
    let editor = service.log_in_as(Role::Editor).await;
    // As a spreadsheet writes rows that were cleared.
    let file = "name;dob;city\n;;\nAda;1990-12-10;x\n ; ;\u{9}\n;;;;\nx;;\n;;\n";
    let all = lines(&import(&service, &editor, CSV, file).await);
    assert_eq!((all.len(), &all[0]["line"]), (2, &json!(6)), "{all:?}");
    assert_eq!(
        (&all[1]["summary"]["lines"], &all[1]["summary"]["created"]),
        (&json!(2), &json!(1))
    );
    let answer = import(&service, &editor, CSV, "name;dob\n;\n;\n").await;
    assert_eq!(answer.body["errors"][0]["detail"], "has no customers", "{answer:?}");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reason_of_the_command_line_is_one_that_the_header_can_carry() {
    let service = Service::start().await;
    let (url, place) = (service.database_url(), folder("import_files"));
    std::fs::write(place.join("people.csv"), "name,dob\nAda,1990-12-10\n").unwrap();
    for bad in ["\u{1b}[2J", "a\nb", "a\u{7f}", "\u{200b}", &"x".repeat(501)] {
        let output = run(url, &place, &["import", "people.csv", "--reason", bad]).await;
        assert_eq!(output.status.code(), Some(2), "{bad:?}: {output:?}");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains("--reason") && told.contains("must"), "{told}");
    }
    for (good, stored) in [
        (" Köln\tŁódź ", Some("Köln\tŁódź")),
        (&"ö".repeat(500), Some(&*"ö".repeat(500))),
        ("  ", None),
    ] {
        stdout(url, &place, &["import", "people.csv", "--reason", good]).await;
        let reason: Option<String> = sqlx::query_scalar(
            "select metadata ->> 'reason' from events order by position desc limit 1",
        )
        .fetch_one(&service.pools.long)
        .await
        .unwrap();
        assert_eq!(reason.as_deref(), stored, "{good:?}");
    }
    service.stop().await;
}
