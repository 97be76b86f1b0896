//! Characters that people cannot see, or that reorder those that they see (UAX 9), and the places where
//! scripts need them nevertheless.
//!
//! **Hidden** are the code points with the property `Default_Ignorable_Code_Point` (UAX 44; the
//! `PrecisIgnorableProperties` of RFC 8264, section 9.13, and "Default_Ignorable" in UTS 39), which include all
//! controls of direction and the fillers of Hangul; the separators of lines and paragraphs; the marks of
//! interlinear annotations; and noncharacters.
//!
//! **Needed** are joiners by the rules of RFC 5892, appendices A.1 and A.2, which PRECIS uses; a variation
//! selector after a Han ideograph (UTS 37), where it selects what people see; and Mongolian's own selectors and
//! its vowel separator at a Mongolian letter.

use icu_properties::props::{
    BinaryProperty as _, CanonicalCombiningClass, EnumeratedProperty as _, GeneralCategory,
    GeneralCategoryGroup, Ideographic, JoiningType, NoncharacterCodePoint, Script,
    VariationSelector,
};

pub use crate::printable::is_hidden;

pub const ZERO_WIDTH_NON_JOINER: char = '\u{200c}';
pub const ZERO_WIDTH_JOINER: char = '\u{200d}';
const MONGOLIAN_VOWEL_SEPARATOR: char = '\u{180e}';

/// Symbols and letters whose glyph is empty. Nonspacing marks and format characters need another one.
const BLANKS: [char; 4] = ['\u{2800}', '\u{13441}', '\u{13442}', '\u{1d159}'];

/// Checks that the text has a visible character, and hidden ones only where a script needs them. The error is
/// a predicate with the character's name. The text has no control characters, and no spaces at its ends.
pub fn check_visible(text: &str) -> Result<(), &'static str> {
    check(text, |_| false)
}

/// The same for a text that nothing is compared with, such as a reason: emoji need joiners and variation
/// selectors, and texts in two directions need marks of direction, wherever they are.
pub fn check_readable(text: &str) -> Result<(), &'static str> {
    check(text, |c| {
        let is_mark = matches!(c, '\u{200e}' | '\u{200f}' | '\u{61c}');
        let is_joiner = matches!(c, ZERO_WIDTH_NON_JOINER | ZERO_WIDTH_JOINER);
        is_mark || is_joiner || VariationSelector::for_char(c)
    })
}

fn check(text: &str, may_be: impl Fn(char) -> bool) -> Result<(), &'static str> {
    if text.is_ascii() {
        return Ok(());
    }
    let mut has_visible = false;
    for (at, c) in text.char_indices() {
        let may_be = may_be(c) || !is_hidden(c);
        if !may_be && !is_needed(&text[..at], c, &text[at + c.len_utf8()..]) {
            return Err(must_not_contain(c));
        }
        has_visible |= is_visible(c);
    }
    if has_visible { Ok(()) } else { Err("must have at least one visible character") }
}

/// Whether the character has a glyph of its own; one that only changes others has none.
fn is_visible(c: char) -> bool {
    let unseen = GeneralCategoryGroup::Separator
        .union(GeneralCategoryGroup::Control)
        .union(GeneralCategoryGroup::Format)
        .union(GeneralCategoryGroup::NonspacingMark)
        .union(GeneralCategoryGroup::EnclosingMark);
    !unseen.contains(GeneralCategory::for_char(c)) && !is_hidden(c) && !BLANKS.contains(&c)
}

fn is_needed(before: &str, c: char, after: &str) -> bool {
    match c {
        ZERO_WIDTH_NON_JOINER | ZERO_WIDTH_JOINER => is_joiner_needed(before, c, after),
        MONGOLIAN_VOWEL_SEPARATOR => {
            let before = before.trim_end_matches(VariationSelector::for_char);
            before.ends_with(is_mongolian) && after.starts_with(is_mongolian)
        }
        '\u{180b}'..='\u{180d}' | '\u{180f}' => before.ends_with(is_mongolian),
        c if VariationSelector::for_char(c) => before.ends_with(Ideographic::for_char),
        _ => false,
    }
}

/// Whether a script needs this joiner: after a virama; and the non-joiner between letters that would join
/// (RFC 5892, A.1 and A.2).
#[must_use]
pub fn is_joiner_needed(before: &str, joiner: char, after: &str) -> bool {
    let is_virama = |c| CanonicalCombiningClass::for_char(c) == CanonicalCombiningClass::Virama;
    if before.ends_with(is_virama) {
        return true;
    }
    // A joiner is not transparent, so the searches of all joiners of a text together pass it twice at most.
    let joins = |c: Option<char>, types: [JoiningType; 2]| {
        c.is_some_and(|c| types.contains(&JoiningType::for_char(c)))
    };
    let is_opaque = |c: &char| JoiningType::for_char(*c) != JoiningType::Transparent;
    joiner == ZERO_WIDTH_NON_JOINER
        && joins(
            before.chars().rev().find(is_opaque),
            [JoiningType::LeftJoining, JoiningType::DualJoining],
        )
        && joins(
            after.chars().find(is_opaque),
            [JoiningType::RightJoining, JoiningType::DualJoining],
        )
}

fn is_mongolian(c: char) -> bool {
    Script::for_char(c) == Script::Mongolian
        && GeneralCategoryGroup::Letter.contains(GeneralCategory::for_char(c))
}

/// The error for a hidden character.
#[must_use]
pub fn must_not_contain(c: char) -> &'static str {
    if let Some((_, message)) = NAMED.iter().find(|(named, _)| *named == c) {
        return message;
    }
    match c {
        '\u{fe00}'..='\u{fe0f}' => "must not contain a variation selector (U+FE00 to U+FE0F)",
        '\u{e0100}'..='\u{e01ef}' => "must not contain a variation selector (U+E0100 to U+E01EF)",
        '\u{e0000}'..='\u{e007f}' => "must not contain a tag character (U+E0000 to U+E007F)",
        '\u{1d173}'..='\u{1d17a}' => {
            "must not contain an invisible musical symbol (U+1D173 to U+1D17A)"
        }
        '\u{1bca0}'..='\u{1bca3}' => {
            "must not contain a shorthand format character (U+1BCA0 to U+1BCA3)"
        }
        c if NoncharacterCodePoint::for_char(c) => "must not contain a noncharacter",
        _ => "must not contain an invisible character that Unicode has reserved",
    }
}

macro_rules! named {
    ($($c:literal $name:literal,)+) => { &[$(($c, concat!("must not contain ", $name))),+] };
}

/// The hidden characters that stand alone in Unicode, by their names.
const NAMED: &[(char, &str)] = named![
    '\u{00ad}' "U+00AD SOFT HYPHEN",
    '\u{034f}' "U+034F COMBINING GRAPHEME JOINER",
    '\u{061c}' "U+061C ARABIC LETTER MARK",
    '\u{115f}' "U+115F HANGUL CHOSEONG FILLER",
    '\u{1160}' "U+1160 HANGUL JUNGSEONG FILLER",
    '\u{17b4}' "U+17B4 KHMER VOWEL INHERENT AQ",
    '\u{17b5}' "U+17B5 KHMER VOWEL INHERENT AA",
    '\u{180b}' "U+180B MONGOLIAN FREE VARIATION SELECTOR ONE",
    '\u{180c}' "U+180C MONGOLIAN FREE VARIATION SELECTOR TWO",
    '\u{180d}' "U+180D MONGOLIAN FREE VARIATION SELECTOR THREE",
    '\u{180e}' "U+180E MONGOLIAN VOWEL SEPARATOR",
    '\u{180f}' "U+180F MONGOLIAN FREE VARIATION SELECTOR FOUR",
    '\u{200b}' "U+200B ZERO WIDTH SPACE",
    '\u{200c}' "U+200C ZERO WIDTH NON-JOINER where no script needs it",
    '\u{200d}' "U+200D ZERO WIDTH JOINER where no script needs it",
    '\u{200e}' "U+200E LEFT-TO-RIGHT MARK",
    '\u{200f}' "U+200F RIGHT-TO-LEFT MARK",
    '\u{2028}' "U+2028 LINE SEPARATOR",
    '\u{2029}' "U+2029 PARAGRAPH SEPARATOR",
    '\u{202a}' "U+202A LEFT-TO-RIGHT EMBEDDING",
    '\u{202b}' "U+202B RIGHT-TO-LEFT EMBEDDING",
    '\u{202c}' "U+202C POP DIRECTIONAL FORMATTING",
    '\u{202d}' "U+202D LEFT-TO-RIGHT OVERRIDE",
    '\u{202e}' "U+202E RIGHT-TO-LEFT OVERRIDE",
    '\u{2060}' "U+2060 WORD JOINER",
    '\u{2061}' "U+2061 FUNCTION APPLICATION",
    '\u{2062}' "U+2062 INVISIBLE TIMES",
    '\u{2063}' "U+2063 INVISIBLE SEPARATOR",
    '\u{2064}' "U+2064 INVISIBLE PLUS",
    '\u{2066}' "U+2066 LEFT-TO-RIGHT ISOLATE",
    '\u{2067}' "U+2067 RIGHT-TO-LEFT ISOLATE",
    '\u{2068}' "U+2068 FIRST STRONG ISOLATE",
    '\u{2069}' "U+2069 POP DIRECTIONAL ISOLATE",
    '\u{206a}' "U+206A INHIBIT SYMMETRIC SWAPPING",
    '\u{206b}' "U+206B ACTIVATE SYMMETRIC SWAPPING",
    '\u{206c}' "U+206C INHIBIT ARABIC FORM SHAPING",
    '\u{206d}' "U+206D ACTIVATE ARABIC FORM SHAPING",
    '\u{206e}' "U+206E NATIONAL DIGIT SHAPES",
    '\u{206f}' "U+206F NOMINAL DIGIT SHAPES",
    '\u{3164}' "U+3164 HANGUL FILLER",
    '\u{feff}' "U+FEFF ZERO WIDTH NO-BREAK SPACE",
    '\u{ffa0}' "U+FFA0 HALFWIDTH HANGUL FILLER",
    '\u{fff9}' "U+FFF9 INTERLINEAR ANNOTATION ANCHOR",
    '\u{fffa}' "U+FFFA INTERLINEAR ANNOTATION SEPARATOR",
    '\u{fffb}' "U+FFFB INTERLINEAR ANNOTATION TERMINATOR",
];
