//! Passwords as text: the profile OpaqueString of PRECIS (RFC 8265, section 4.2), so that a password is the
//! same whatever keyboard and system it was typed on. Spaces become U+0020, the text becomes NFC, and the
//! result consists of characters of the FreeformClass (RFC 8264, section 4.3).
//!
//! The class is checked after the mapping, not before it as RFC 8265 describes: the jamo of decomposed Hangul
//! are refused by the class, and are syllables of it once they are composed.

use icu_properties::props::{
    EnumeratedProperty as _, GeneralCategory, GeneralCategoryGroup, HangulSyllableType, Script,
};
use unicode_normalization::UnicodeNormalization as _;

use crate::events::characters::{
    ZERO_WIDTH_JOINER, ZERO_WIDTH_NON_JOINER, is_hidden, is_joiner_needed, must_not_contain,
};

/// The shortest and the longest password, in bytes of its prepared form.
pub const PASSWORD_BYTES: std::ops::RangeInclusive<usize> = 8..=1024;

/// The longest text of a password, in bytes: composition makes the most of three bytes one (a Hangul syllable of
/// three jamo), so a longer text has no prepared form of at most 1024 bytes.
pub const TEXT_MAX: usize = 4 * 1024;

const LENGTH: &str = "must have 8 to 1024 bytes";

/// Checks a new password: its characters, and its length as it is stored. The error is a predicate.
pub(super) fn check(text: &str) -> Result<(), &'static str> {
    let prepared = prepare(text)?;
    if PASSWORD_BYTES.contains(&prepared.len()) { Ok(()) } else { Err(LENGTH) }
}

/// The text as OpaqueString, or why the class refuses it.
fn prepare(text: &str) -> Result<String, &'static str> {
    if text.is_empty() || text.len() > TEXT_MAX {
        return Err(LENGTH);
    }
    let space = |c: char| {
        let is_space = GeneralCategory::for_char(c) == GeneralCategory::SpaceSeparator;
        if is_space { ' ' } else { c }
    };
    let text: String = text.chars().map(space).nfc().collect();
    let whole = Whole::of(&text);
    for (at, c) in text.char_indices() {
        whole.check(&text[..at], c, &text[at + c.len_utf8()..])?;
    }
    Ok(text)
}

/// The texts that a log-in may mean: as OpaqueString; and as an earlier version, which hashed the bytes as they
/// came, may have got them. How many they are depends on the text alone, so it says nothing of the account.
pub(super) fn spellings(text: &str) -> Spellings {
    let Ok(prepared) = prepare(text) else {
        return Spellings { stored: text.to_owned(), earlier: None };
    };
    let earlier = if prepared == text { text.nfd().collect() } else { text.to_owned() };
    let earlier = (earlier != prepared).then_some(earlier);
    Spellings { stored: prepared, earlier }
}

/// The spellings of one password.
pub(super) struct Spellings {
    /// What is hashed today. A text that OpaqueString refuses stands for itself: it may be the password of an
    /// account that an earlier version made.
    pub stored: String,
    /// What an earlier version may have hashed instead.
    pub earlier: Option<String>,
}

const REFUSED: &str = "must not contain a character that RFC 8265 (OpaqueString) refuses in passwords: \
                       unassigned, private, of old Hangul, or outside the context that it needs";

/// What the rules ask of a whole text (RFC 5892, A.7 to A.9).
struct Whole {
    has_kana_or_han: bool,
    has_arabic_digits: bool,
    has_extended_arabic_digits: bool,
}

impl Whole {
    fn of(text: &str) -> Self {
        let scripts = [Script::Hiragana, Script::Katakana, Script::Han];
        Self {
            has_kana_or_han: text.contains(|c| scripts.contains(&Script::for_char(c))),
            has_arabic_digits: text.contains(|c| ('\u{660}'..='\u{669}').contains(&c)),
            has_extended_arabic_digits: text.contains(|c| ('\u{6f0}'..='\u{6f9}').contains(&c)),
        }
    }

    /// Whether the FreeformClass has the character in this place (RFC 8264, section 8, with the exceptions of
    /// section 9.6 and the rules of RFC 5892, appendix A).
    fn check(&self, before: &str, c: char, after: &str) -> Result<(), &'static str> {
        let is_of = |script: Script| move |c: char| Script::for_char(c) == script;
        let is_valid = match c {
            ' '..='~' | 'ß' | 'ς' | '\u{6fd}' | '\u{6fe}' | '\u{f0b}' | '〇' => true,
            '\u{640}'
            | '\u{7fa}'
            | '\u{302e}'
            | '\u{302f}'
            | '\u{3031}'..='\u{3035}'
            | '\u{303b}' => false,
            '·' => before.ends_with('l') && after.starts_with('l'),
            '\u{375}' => after.starts_with(is_of(Script::Greek)),
            '\u{5f3}' | '\u{5f4}' => before.ends_with(is_of(Script::Hebrew)),
            '\u{30fb}' => self.has_kana_or_han,
            '\u{660}'..='\u{669}' => !self.has_extended_arabic_digits,
            '\u{6f0}'..='\u{6f9}' => !self.has_arabic_digits,
            ZERO_WIDTH_NON_JOINER | ZERO_WIDTH_JOINER if is_joiner_needed(before, c, after) => true,
            c if c.is_control() => return Err("must not contain control characters"),
            c if is_hidden(c) => return Err(must_not_contain(c)),
            c => is_in_class(c),
        };
        if is_valid { Ok(()) } else { Err(REFUSED) }
    }
}

fn is_in_class(c: char) -> bool {
    let is_jamo = [
        HangulSyllableType::LeadingJamo,
        HangulSyllableType::VowelJamo,
        HangulSyllableType::TrailingJamo,
    ]
    .contains(&HangulSyllableType::for_char(c));
    let class = GeneralCategoryGroup::Letter
        .union(GeneralCategoryGroup::Mark)
        .union(GeneralCategoryGroup::Number)
        .union(GeneralCategoryGroup::SpaceSeparator)
        .union(GeneralCategoryGroup::Symbol)
        .union(GeneralCategoryGroup::Punctuation);
    !is_jamo && class.contains(GeneralCategory::for_char(c))
}
