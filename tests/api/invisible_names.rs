//! Names that people cannot see, and characters that change what people read: refused by name at every door,
//! while events of earlier versions stay as they are.

use customers::events::values::Role;
use serde_json::{Value, json};

use crate::cli::Shell;
use crate::harness::{Login, PASSWORD, Service, With as _, config_on, database, folder, send};
use crate::sessions::{login_of, try_to_log_in, verdict};

/// Characters that people do not see, or that reorder others, with their names.
const REFUSED: [(&str, &str); 22] = [
    ("\u{200b}", "U+200B ZERO WIDTH SPACE"),
    ("\u{3164}", "U+3164 HANGUL FILLER"),
    ("\u{ad}", "U+00AD SOFT HYPHEN"),
    ("\u{feff}", "U+FEFF ZERO WIDTH NO-BREAK SPACE"),
    ("\u{202e}", "U+202E RIGHT-TO-LEFT OVERRIDE"),
    ("\u{2067}", "U+2067 RIGHT-TO-LEFT ISOLATE"),
    ("\u{200f}", "U+200F RIGHT-TO-LEFT MARK"),
    ("\u{61c}", "U+061C ARABIC LETTER MARK"),
    ("\u{115f}", "U+115F HANGUL CHOSEONG FILLER"),
    ("\u{ffa0}", "U+FFA0 HALFWIDTH HANGUL FILLER"),
    ("\u{34f}", "U+034F COMBINING GRAPHEME JOINER"),
    ("\u{180e}", "U+180E MONGOLIAN VOWEL SEPARATOR"),
    ("\u{2060}", "U+2060 WORD JOINER"),
    ("\u{2063}", "U+2063 INVISIBLE SEPARATOR"),
    ("\u{2028}", "U+2028 LINE SEPARATOR"),
    ("\u{2029}", "U+2029 PARAGRAPH SEPARATOR"),
    ("\u{fe0f}", "a variation selector (U+FE00 to U+FE0F)"),
    ("\u{e0041}", "a tag character (U+E0000 to U+E007F)"),
    ("\u{fff9}", "U+FFF9 INTERLINEAR ANNOTATION ANCHOR"),
    ("\u{1d173}", "an invisible musical symbol (U+1D173 to U+1D17A)"),
    ("\u{ffff}", "a noncharacter"),
    ("\u{200d}", "U+200D ZERO WIDTH JOINER where no script needs it"),
];

/// Names in which the same characters have a use, or that only look unusual.
const TAKEN: [&str; 18] = [
    // Persian writes ZERO WIDTH NON-JOINER between letters that would join (RFC 5892, A.1).
    "مهدی\u{200c}پور",
    // And with marks between the letters.
    "بَ\u{200c}ّب",
    // Sinhala and Marathi write joiners after a virama (A.1, A.2).
    "ශ්\u{200d}රී ලංකා",
    "र्\u{200d}य",
    "क्\u{200c}ष",
    // A Han ideograph in the variant that a Japanese family writes (UTS 37).
    "葛\u{e0100}城",
    "邉\u{fe00}",
    // Mongolian selects forms and separates a vowel.
    "ᠰᠠᠷ\u{180e}ᠠ",
    "ᠠ\u{180b}ᠪ",
    "卡尔·马克思",
    "O'Brien-\u{2019}Smith",
    "Łódź ß ẞ İ",
    "한국",
    "עברית ועוד",
    "Ἀριστοτέλης",
    "⠁⠙⠁\u{2800}⠇",
    "🦀",
    ".",
];

fn person(name: &str) -> Value {
    json!({"name": name, "dob": "1990-12-10"})
}

async fn refusal(request: reqwest::RequestBuilder, name: &str) -> String {
    let answer = send(request.json(&person(name))).await;
    assert_eq!(answer.status, 422, "{name:?}: {answer:?}");
    let errors = answer.body["errors"].as_array().unwrap();
    assert_eq!((errors.len(), &errors[0]["field"]), (1, &json!("name")), "{answer:?}");
    errors[0]["detail"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invisible_and_reordering_characters_are_refused_by_name_at_every_door() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    let first = service.post("/customers").login(&admin).json(&person("Ada"));
    assert_eq!(send(first).await.status, 201);
    for (character, name) in REFUSED {
        let expected = format!("must not contain {name}");
        for text in [
            character.to_owned(),
            format!("A{character}da"),
            format!("{character}Ada"),
            format!("Ada{character}"),
        ] {
            // White space at the ends is cut.
            if text.trim() == "Ada" || text.trim().is_empty() {
                continue;
            }
            for request in [
                service.post("/customers"),
                service.post("/customers/create"),
                service.put("/customers/1"),
            ] {
                assert_eq!(refusal(request.login(&admin), &text).await, expected, "{text:?}");
            }
            let mut body = person(&text);
            body["id"] = 1.into();
            let answer = send(service.post("/customers/update").login(&admin).json(&body)).await;
            assert_eq!(answer.body["errors"][0]["detail"], expected);
            for (kind, file) in [
                ("application/x-ndjson", format!("{}\n", person(&text))),
                ("text/csv", format!("name,dob\n\"{text}\",1990-12-10\n")),
            ] {
                let request = service.post("/customers/import").header("content-type", kind);
                let answer = send(request.login(&admin).body(file)).await;
                let told = format!(r#""field":"name","detail":"{expected}""#);
                assert!(answer.text.contains(&told), "{text:?}: {answer:?}");
            }
        }
    }
    assert_eq!(send(service.get("/customers").login(&admin)).await.body["number"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_has_at_least_one_visible_character() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    for name in [
        "\u{301}",
        "\u{20dd}",
        "\u{302}\u{323}",
        "\u{2800}",
        "\u{2800} \u{2800}",
        "\u{1d159}",
        "\u{16fe4}",
        // Format characters that change only their neighbours: of Egyptian, of Syriac.
        "\u{13430}\u{13431}",
        "\u{70f}",
    ] {
        let told = refusal(service.post("/customers").login(&admin), name).await;
        assert_eq!(told, "must have at least one visible character", "{name:?}");
    }
    for name in ["", " ", "\u{a0}", "\u{3000}", "\u{2003}\u{202f}"] {
        let told = refusal(service.post("/customers").login(&admin), name).await;
        assert_eq!(told, "must not be empty", "{name:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joiners_and_selectors_stay_where_a_script_needs_them() {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    for name in TAKEN {
        let created = send(service.post("/customers").login(&admin).json(&person(name))).await;
        assert_eq!((created.status, &created.body["name"]), (201, &json!(name)), "{created:?}");
    }
    // And nowhere else.
    for (name, character) in [
        ("A\u{200c}da", "U+200C ZERO WIDTH NON-JOINER where no script needs it"),
        ("مهدی\u{200c}", "U+200C ZERO WIDTH NON-JOINER where no script needs it"),
        ("مهد\u{200c}ی", "U+200C ZERO WIDTH NON-JOINER where no script needs it"),
        ("مهدی\u{200c}\u{200c}پور", "U+200C ZERO WIDTH NON-JOINER where no script needs it"),
        ("مهدی\u{200d}پور", "U+200D ZERO WIDTH JOINER where no script needs it"),
        ("👨\u{200d}👩", "U+200D ZERO WIDTH JOINER where no script needs it"),
        ("क\u{200d}ष", "U+200D ZERO WIDTH JOINER where no script needs it"),
        ("A\u{e0100}", "a variation selector (U+E0100 to U+E01EF)"),
        ("葛\u{e0100}\u{e0101}", "a variation selector (U+E0100 to U+E01EF)"),
        ("1\u{fe0f}", "a variation selector (U+FE00 to U+FE0F)"),
        ("A\u{180b}", "U+180B MONGOLIAN FREE VARIATION SELECTOR ONE"),
    ] {
        let told = refusal(service.post("/customers").login(&admin), name).await;
        assert_eq!(told, format!("must not contain {character}"), "{name:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_account_has_a_name_that_can_be_seen() {
    let service = Service::start().await;
    let shell = Shell::on(service.database_url());
    for (name, why) in [
        ("ad\u{200b}a", "must not contain U+200B ZERO WIDTH SPACE"),
        ("\u{202e}ada", "must not contain U+202E RIGHT-TO-LEFT OVERRIDE"),
        ("ad\u{ad}a", "must not contain U+00AD SOFT HYPHEN"),
        // As folded: the filler of half width becomes another one.
        ("\u{ffa0}", "must not contain U+FFA0 HALFWIDTH HANGUL FILLER"),
        ("ada\u{3164}", "must not contain U+3164 HANGUL FILLER"),
        ("ada\u{200d}", "must not contain U+200D ZERO WIDTH JOINER where no script needs it"),
        ("\u{301}", "must have at least one visible character"),
    ] {
        let arguments = format!("account add {name} --role viewer --password-stdin");
        let told = shell.run_with(&arguments, PASSWORD).await;
        assert_eq!(told.code, 2, "{told:?}");
        assert!(told.stderr.contains(why), "{told:?}");
    }
    let added =
        shell.run_with("account add مهدی\u{200c}پور --role viewer --password-stdin", PASSWORD);
    assert_eq!(added.await.code, 0);
    assert_eq!(verdict(try_to_log_in(&service, "مهدی\u{200c}پور", PASSWORD)).await, "200");
}

/// A log with names that an earlier version took: of a customer and of an account.
async fn registry_of_an_earlier_version() -> (Service, Login) {
    let service = Service::start().await;
    let admin = service.log_in_as(Role::Admin).await;
    for name in ["Ada", "Grace"] {
        let created = send(service.post("/customers").login(&admin).json(&person(name))).await;
        assert_eq!(created.status, 201);
    }
    service.add_account("ada", Role::Viewer).await;
    service.caught_up().await;
    for statement in [
        "alter table events disable trigger all",
        "update events set payload = replace(payload::text, '\"Ada\"', '\"\u{200b}\"')::json",
        "update events set payload = replace(payload::text, '\"ada\"', '\"a\u{200b}da\"')::json,
                           aggregate_id = 'a\u{200b}da' where aggregate_id = 'ada'",
        "update accounts set username = 'a\u{200b}da' where username = 'ada'",
        "alter table events enable always trigger events_append_only",
    ] {
        sqlx::query(statement).execute(&service.pools.long).await.unwrap();
    }
    (service, admin)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_an_earlier_version_are_read_rebuilt_restored_and_replaced() {
    let (service, admin) = registry_of_an_earlier_version().await;
    let shell = Shell::on(service.database_url());
    let rebuilt = shell.run("projection rebuild customers").await;
    assert_eq!(rebuilt.code, 0, "{rebuilt:?}");
    let rebuilt = shell.run("projection rebuild customer_history").await;
    assert_eq!(rebuilt.code, 0, "{rebuilt:?}");
    let read = send(service.get("/customers/1").login(&admin)).await;
    assert_eq!((read.status, &read.body["name"]), (200, &json!("\u{200b}")));
    for path in ["/customers/1?version=1", "/events?customer=1", "/customers/1/history"] {
        let read = send(service.get(path).login(&admin)).await;
        assert!(read.status == 200 && read.text.contains('\u{200b}'), "{path}: {read:?}");
    }

    // The account logs in, is listed, and is managed.
    let login = login_of(&send(try_to_log_in(&service, "a\u{200b}da", PASSWORD)).await);
    assert_eq!(send(service.get("/customers").login(&login)).await.body["number"], 2);
    assert_eq!(send(service.get("/sessions").login(&login)).await.status, 200);
    // People are shown what is there.
    assert!(shell.run("account list").await.stdout.contains(r"a\u200bda"));
    for command in ["role a\u{200b}da editor", "disable a\u{200b}da"] {
        let told = shell.run(&format!("account {command}")).await;
        assert_eq!(told.code, 0, "{told:?}");
    }

    // The customer is decided on, and gets a name that can be seen.
    let same = service.put("/customers/1").login(&admin).json(&person("\u{200b}"));
    assert_eq!(send(same).await.status, 422);
    let fresh = Service::with(config_on(service.database_url())).await;
    fresh.add_account("root", Role::Admin).await;
    let root = fresh.log_in("root").await;
    let changed = send(fresh.put("/customers/1").login(&root).json(&person("Ada"))).await;
    assert_eq!((changed.status, &changed.body["version"]), (200, &json!(2)), "{changed:?}");

    // The whole log is copied.
    let place = folder("invisible");
    let export = shell.run("export --format ndjson").await;
    assert_eq!(export.code, 0, "{export:?}");
    let file = place.join("log.ndjson");
    std::fs::write(&file, &export.stdout).unwrap();
    let there = database().await;
    let import = format!("import --log {}", file.display());
    let restored = Shell::on(&there).run(&import).await;
    assert_eq!(restored.code, 0, "{restored:?}");
    let copy = Service::with(config_on(&there)).await;
    copy.caught_up().await;
    copy.add_account("root2", Role::Admin).await;
    let root = copy.log_in("root2").await;
    let read = send(copy.get("/customers/1?version=1").login(&root)).await;
    assert_eq!(read.body["name"], "\u{200b}", "{read:?}");
}

/// The rule itself, on every character of Unicode.
#[test]
fn every_character_that_nobody_sees_is_refused_and_every_other_is_taken() {
    use customers::events::characters::{check_visible, is_hidden, must_not_contain};
    use customers::events::values::{Name, ValueError};
    use icu_properties::props::{EnumeratedProperty as _, GeneralCategory};
    let mut hidden = 0;
    for c in ('\u{80}'..=char::MAX).filter(|c| !c.is_control() && !c.is_whitespace()) {
        let text = format!("A{c}");
        let taken = Name::parse(&text);
        if is_hidden(c) {
            hidden += 1;
            assert_eq!(taken, Err(ValueError(must_not_contain(c))), "{c:?}");
            // Only what Unicode has not assigned has no name.
            let is_reserved = GeneralCategory::for_char(c) == GeneralCategory::Unassigned;
            let has_name = !must_not_contain(c).contains("reserved");
            assert!(is_reserved || has_name, "{c:?}");
            assert!(check_visible(&c.to_string()).is_err(), "{c:?}");
        } else {
            assert!(taken.is_ok(), "{c:?}");
        }
        // What the log has can be read.
        assert!(Name::stored(&text).is_ok(), "{c:?}");
    }
    // 4,174 code points are ignorable by default in every version since Unicode 14; 66 are noncharacters.
    assert_eq!(hidden, 4174 + 66 + 3, "2028 and 2029 are white space");
    for direction in ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}') {
        assert!(is_hidden(direction));
    }
}
