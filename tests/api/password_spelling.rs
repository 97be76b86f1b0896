//! Passwords that keyboards write in different ways: prepared by OpaqueString (RFC 8265, section 4.2).

use customers::events::values::Role;
use serde_json::json;

use crate::cli::Shell;
use crate::harness::{PASSWORD, Service, With as _, send};
use crate::sessions::{events_of_type, try_to_log_in, verdict};

/// One password in the spellings of different keyboards and systems.
const SPELLINGS: [[&str; 2]; 6] = [
    ["pässword ñ", "pa\u{308}ssword n\u{303}"],
    // A Hangul syllable and its jamo.
    [
        "비밀번호",
        "\u{1107}\u{1175}\u{1106}\u{1175}\u{11af}\u{1107}\u{1165}\u{11ab}\u{1112}\u{1169}",
    ],
    // Kana with a sound mark.
    ["パスワード", "ハ\u{309a}スワート\u{3099}"],
    // Several marks, in another order.
    ["ệệệ", "e\u{302}\u{323}e\u{323}\u{302}ẹ\u{302}"],
    // A space that is not ASCII: option-space on a Mac, the ideographic space of an input method.
    ["pass word", "pass\u{a0}word"],
    ["pass word 2", "pass\u{3000}word\u{202f}2"],
];

/// Stores the hash that an earlier version made of exactly these bytes.
async fn with_hash_of_bytes(service: &Service, name: &str, password: &str) {
    service.add_account(name, Role::Viewer).await;
    let hash: argon2::password_hash::phc::PasswordHash =
        argon2::PasswordHasher::hash_password_with_salt(
            &argon2::Argon2::default(),
            password.as_bytes(),
            &[7; 16],
        )
        .unwrap();
    sqlx::query("update accounts set password_hash = $1 where username = $2")
        .bind(hash.to_string())
        .bind(name)
        .execute(&service.pools.accounts)
        .await
        .unwrap();
}

async fn stored(service: &Service, name: &str) -> String {
    sqlx::query_scalar("select password_hash from accounts where username = $1")
        .bind(name)
        .fetch_one(&service.pools.short)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_the_same_however_it_is_typed() {
    let service = Service::start().await;
    let mut old = PASSWORD.to_owned();
    service.add_account("ada", Role::Viewer).await;
    for [one, two] in SPELLINGS {
        for (new, other) in [(one, two), (two, one)] {
            let login =
                crate::sessions::login_of(&send(try_to_log_in(&service, "ada", &old)).await);
            let body = json!({"old": old, "new": new});
            let changed = send(service.post("/password").json(&body).login(&login)).await;
            assert_eq!(changed.status, 200, "{new}: {changed:?}");
            assert_eq!(verdict(try_to_log_in(&service, "ada", other)).await, "200", "{new}");
            assert_eq!(verdict(try_to_log_in(&service, "ada", new)).await, "200", "{new}");
            other.clone_into(&mut old);
        }
    }
    assert_eq!(events_of_type(&service, "ada", "PasswordRehashed").await.len(), 0);
    for wrong in ["passworD 2", "pass  word 2", "password 2", "pass word２", "PASS WORD 2"] {
        let told = verdict(try_to_log_in(&service, "ada", wrong)).await;
        assert_eq!(told, "401 unauthenticated", "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hash_of_another_spelling_still_logs_in_and_is_renewed_once() {
    let service = Service::start().await;
    for (number, [composed, typed]) in SPELLINGS.into_iter().enumerate() {
        let name = format!("ada{number}");
        with_hash_of_bytes(&service, &name, typed).await;
        let before = stored(&service, &name).await;
        assert_eq!(verdict(try_to_log_in(&service, &name, typed)).await, "200", "{typed}");
        assert_ne!(stored(&service, &name).await, before, "{typed}");
        for spelling in [composed, typed] {
            assert_eq!(verdict(try_to_log_in(&service, &name, spelling)).await, "200");
        }
        assert_eq!(events_of_type(&service, &name, "PasswordRehashed").await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decomposed_password_of_an_earlier_version_is_found_by_a_keyboard_that_composes() {
    let service = Service::start().await;
    for (number, [composed, decomposed]) in SPELLINGS[..3].iter().enumerate() {
        let name = format!("ada{number}");
        with_hash_of_bytes(&service, &name, decomposed).await;
        assert_eq!(verdict(try_to_log_in(&service, &name, composed)).await, "200", "{composed}");
        assert_eq!(events_of_type(&service, &name, "PasswordRehashed").await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_of_an_earlier_version_that_is_refused_today_still_logs_in() {
    let service = Service::start().await;
    for (number, password) in [
        "tab\tinside it",
        "zero\u{200b}width",
        "\u{e000} private use",
        "middle·dot",
        "\u{7f}\u{0}12345678",
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("ada{number}");
        with_hash_of_bytes(&service, &name, password).await;
        assert_eq!(verdict(try_to_log_in(&service, &name, password)).await, "200", "{password:?}");
        let login =
            crate::sessions::login_of(&send(try_to_log_in(&service, &name, password)).await);
        // It can be changed into another, and not into itself.
        let body = json!({"old": password, "new": password});
        let told = send(service.post("/password").json(&body).login(&login)).await;
        assert_eq!((told.status, &told.body["errors"][0]["field"]), (422, &json!("new")));
        let body = json!({"old": password, "new": "a better one"});
        assert_eq!(verdict(service.post("/password").json(&body).login(&login)).await, "200");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_password_that_opaque_string_refuses_is_refused_by_name() {
    let service = Service::start().await;
    let login = service.log_in_as(Role::Viewer).await;
    let mut told = String::new();
    for new in [
        "tab\tinside it",
        "nul\u{0}inside it",
        "zero\u{200b}width",
        "soft\u{ad}hyphen",
        "joiner\u{200d}alone",
        "override\u{202e}",
        "\u{e000} private use",
        "\u{ffff} no character",
        "\u{378} unassigned",
        "middle·dot",
        "line\u{2028}separator",
        "\u{1100}\u{119e} old Hangul",
        // 8 bytes as typed, and 5 as stored.
        "e\u{301}e\u{301}ab",
        "",
        " ",
    ] {
        let body = json!({"old": PASSWORD, "new": new});
        let answer = send(service.post("/password").json(&body).login(&login)).await;
        assert_eq!((answer.status, &answer.body["errors"][0]["field"]), (422, &json!("new")));
        let detail = answer.body["errors"][0]["detail"].as_str().unwrap();
        told = format!("{told}{new:?}: {detail}\n");
    }
    insta::assert_snapshot!(told, @r#"
    "tab\tinside it": must not contain control characters
    "nul\0inside it": must not contain control characters
    "zero\u{200b}width": must not contain U+200B ZERO WIDTH SPACE
    "soft\u{ad}hyphen": must not contain U+00AD SOFT HYPHEN
    "joiner\u{200d}alone": must not contain U+200D ZERO WIDTH JOINER where no script needs it
    "override\u{202e}": must not contain U+202E RIGHT-TO-LEFT OVERRIDE
    "\u{e000} private use": must not contain a character that RFC 8265 (OpaqueString) refuses in passwords: unassigned, private, of old Hangul, or outside the context that it needs
    "\u{ffff} no character": must not contain a noncharacter
    "\u{378} unassigned": must not contain a character that RFC 8265 (OpaqueString) refuses in passwords: unassigned, private, of old Hangul, or outside the context that it needs
    "middle·dot": must not contain a character that RFC 8265 (OpaqueString) refuses in passwords: unassigned, private, of old Hangul, or outside the context that it needs
    "line\u{2028}separator": must not contain U+2028 LINE SEPARATOR
    "ᄀᆞ old Hangul": must not contain a character that RFC 8265 (OpaqueString) refuses in passwords: unassigned, private, of old Hangul, or outside the context that it needs
    "e\u{301}e\u{301}ab": must have 8 to 1024 bytes
    "": must have 8 to 1024 bytes
    " ": must have 8 to 1024 bytes
    "#);
    // What it needs not refuse.
    let mut old = PASSWORD.to_owned();
    for new in [
        "correct 🦀 horse 🫎",
        "𞤀𞤣𞤤𞤢𞤥 𞤆𞤵𞤤𞤢𞤪",
        "نامه\u{200c}ای از دوست",
        "l·l of Catalan",
        "क्\u{200d}ष of Hindi",
        "   spaces   ",
        "€uro ª ½ ™ №",
    ] {
        let body = json!({"old": old, "new": new});
        let answer = send(service.post("/password").json(&body).login(&login)).await;
        assert_eq!(answer.status, 200, "{new}: {answer:?}");
        new.clone_into(&mut old);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_prepares_passwords_too() {
    let service = Service::start().await;
    let shell = Shell::on(service.database_url());
    let add = "account add ada --role viewer --password-stdin";
    let added = shell.run_with(add, "pa\u{308}ssword n\u{303}\n").await;
    assert_eq!(added.code, 0, "{added:?}");
    assert_eq!(verdict(try_to_log_in(&service, "ada", "pässword ñ")).await, "200");
    let passwd = "account passwd ada --password-stdin";
    // 3,000 bytes as typed, and 1,000 as stored.
    let (typed, stored) = ("\u{1112}\u{1161}\u{11ab}".repeat(333), "한".repeat(333));
    let changed = shell.run_with(passwd, &typed).await;
    assert_eq!(changed.code, 0, "{changed:?}");
    assert_eq!(verdict(try_to_log_in(&service, "ada", &stored)).await, "200");
    for (refused, why) in [
        ("tab\tinside it", "the password must not contain control characters"),
        ("zero\u{200b}width", "the password must not contain U+200B ZERO WIDTH SPACE"),
        (&"한".repeat(400), "the password must have 8 to 1024 bytes"),
        (&"\u{1112}\u{1161}\u{11ab}".repeat(2000), "the password must have 8 to 1024 bytes"),
    ] {
        let told = shell.run_with(passwd, refused).await;
        assert_eq!(told.code, 1, "{told:?}");
        assert!(told.stderr.contains(why), "{told:?}");
    }
    assert_eq!(verdict(try_to_log_in(&service, "ada", &stored)).await, "200");
}

/// The class of characters, compared with another implementation, which knows the characters of Unicode 6.3.
#[test]
fn the_class_of_characters_is_that_of_precis() {
    use customers::auth::account::check_password;
    use precis_profiles::OpaqueString;
    use precis_profiles::precis_core::profile::PrecisFastInvocation as _;
    use precis_profiles::precis_core::{DerivedPropertyValue, FreeformClass, StringClass as _};
    use unicode_normalization::is_nfc;

    let class = FreeformClass::default();
    let is_long = std::env::var_os("CUSTOMERS_TEST_LONG").is_some();
    let mut compared = 0;
    let all = ('\0'..='\u{e010}').chain('\u{f900}'..='\u{2fa1f}').chain('\u{e0000}'..=char::MAX);
    // The ideographs, and what is private, differ in nothing.
    let differs = |c: &char| !matches!(c, '\u{4e10}'..='\u{9ff0}' | '\u{20010}'..='\u{2a6d0}' | '\u{f0010}'..);
    for c in all.filter(|c| is_long || differs(c)) {
        let is_known = class.get_value_from_char(c) != DerivedPropertyValue::Unassigned;
        if !is_known || !is_nfc(&c.to_string()) {
            continue;
        }
        let texts = [
            format!("password{c}"),
            format!("{c}password"),
            format!("will{c}love you"),
            format!("की क्{c}ष मह{c}ی"),
            format!("कविता क{c} ब{c}"),
            format!("مهد{c}پور مه"),
            format!("ספר{c}ש רחל"),
            format!("α{c}βγδεζη"),
            format!("カ{c}タカナハ"),
            format!("12345٣{c}"),
            format!("12345۳{c}"),
        ];
        let number = if is_long || c < '\u{3100}' { texts.len() } else { 1 };
        for text in texts.iter().take(number).filter(|text| is_nfc(text)) {
            let expected = OpaqueString::enforce(text.as_str()).is_ok();
            assert_eq!(check_password(text).is_ok(), expected, "{c:?} in {text:?}");
            compared += 1;
        }
    }
    assert!(compared > 100_000, "{compared}");
}
