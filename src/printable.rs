//! Texts for people. What goes to a terminal, into a log line or into an attribute of a CloudEvent may come
//! from a client, a file or another server, so it passes through `printable`. `error_text` says each thing
//! once.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::Write as _;

use icu_properties::props::{
    BinaryProperty as _, DefaultIgnorableCodePoint, NoncharacterCodePoint, VariationSelector,
};

/// Escapes each character that a terminal acts on, that ends a line, that reorders others (UAX 9) or that is
/// invisible, as JSON does: `\n`, `\u009b`. So a JSON text keeps its value, and any other text shows what is in it.
/// Joiners and variation selectors stay, because scripts and emoji need them.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            c if acts(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(escaped, "\\u{unit:04x}");
                }
            }
            c => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

/// Whether the character does anything else than to show itself.
fn acts(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    let is_needed = matches!(c, '\u{200c}' | '\u{200d}') || VariationSelector::for_char(c);
    c.is_control() || (is_hidden(c) && !is_needed)
}

/// Whether people cannot see the character, or it reorders those that they see. `events::characters` says
/// which these are, and where scripts need them.
#[must_use]
pub fn is_hidden(c: char) -> bool {
    DefaultIgnorableCodePoint::for_char(c)
        || NoncharacterCodePoint::for_char(c)
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{fff9}'..='\u{fffb}')
}

/// The error and its causes, `what: why: why`. Many errors repeat their cause in their own text; a text that
/// stands there already is left out.
#[must_use]
pub fn error_text(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut start = 0;
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            if said.starts_with(&text[start..]) {
                text.truncate(start);
            } else {
                text.push_str(": ");
                start = text.len();
            }
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_people_write_stays_as_it_is() {
        for text in [
            "Ada O'Hara, née \\ \"Köln\"",
            "東京 🎉",
            "👩\u{200d}🔬",
            "❤\u{fe0f}",
            "می\u{200c}خواهم",
            "",
        ] {
            assert!(matches!(printable(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    #[test]
    fn an_error_names_each_cause_once() {
        #[derive(Debug)]
        struct Layer(&'static str, Option<Box<Layer>>);
        impl std::fmt::Display for Layer {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.0)
            }
        }
        impl Error for Layer {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                self.1.as_deref().map(|layer| layer as &(dyn Error + 'static))
            }
        }
        for (layers, text) in [
            (&["cannot read", "refused"][..], "cannot read: refused"),
            (&["cannot read: refused", "refused"], "cannot read: refused"),
            (&["cannot read", "io: refused", "refused"], "cannot read: io: refused"),
            (&["same", "same", "same"], "same"),
            (&["cannot read", "io", "io: refused"], "cannot read: io: refused"),
            (&["cannot read", ""], "cannot read"),
            (&["", "refused"], "refused"),
        ] {
            let chain =
                layers.iter().rev().fold(None, |inner, text| Some(Box::new(Layer(text, inner))));
            assert_eq!(error_text(&*chain.expect("a chain has layers")), text);
        }
    }

    /// More with `script/test --long`. Set here, because `PROPTEST_CASES` also counts for tests with servers.
    fn cases() -> ProptestConfig {
        let is_long = std::env::var_os("CUSTOMERS_TEST_LONG").is_some();
        let cases = if is_long { 100_000 } else { 2000 };
        ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
    }

    proptest! {
        #![proptest_config(cases())]

        #[test]
        fn a_printed_text_never_acts_and_prints_as_itself(text: String) {
            let shown = printable(&text);
            prop_assert!(!shown.contains(acts), "{shown:?}");
            prop_assert_eq!(printable(&shown), &*shown);
        }

        #[test]
        fn printed_json_has_the_same_value(text: String) {
            let json = serde_json::to_string(&text).expect("a text is JSON");
            let shown = printable(&json);
            let read: String = serde_json::from_str(&shown).expect("it is still JSON");
            prop_assert_eq!(read, text);
        }
    }
}
