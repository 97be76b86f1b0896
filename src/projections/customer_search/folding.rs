//! Names as they are compared. Two texts that differ only in case, accents, width or punctuation fold to the same one:
//! compatibility decomposition (NFKD, Unicode Standard Annex 15) without the marks of accents, in lower case, with one
//! space for what stands between words.

use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::canonical_combining_class;

/// The longest folded text that is compared, in Unicode scalar values: a btree entry has at most 2,704 bytes.
const LENGTH_MAX: usize = 128;

/// Stands before each beginning of a word in a marked text; no folded text has it.
const MARK: char = '|';

/// A name, folded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FoldedName {
    pub(super) whole: String,
    /// With a mark before each beginning of a word.
    pub(super) marked: String,
    /// The rest of the name from each beginning of a word, and how many of its first characters an earlier rest has,
    /// too: a prefix that is not longer finds the name by that one already.
    pub(super) words: Vec<(String, i16)>,
}

impl FoldedName {
    pub(super) fn new(name: &str) -> Self {
        let folded = fold(name);
        let beginnings = beginnings(&folded);
        let rest = |at: usize| &folded[at..(at + LENGTH_MAX).min(folded.len())];
        let words = beginnings.iter().enumerate().map(|(number, at)| {
            let earlier = beginnings[..number].iter();
            let shared = earlier.map(|earlier| common_prefix(rest(*earlier), rest(*at))).max();
            (rest(*at).iter().collect(), i16::try_from(shared.unwrap_or(0)).unwrap_or(i16::MAX))
        });
        Self {
            words: words.collect(),
            marked: marked(&folded, &beginnings),
            whole: rest(0).iter().collect(),
        }
    }
}

/// What a word of a name begins with; more than a word, if it has spaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix {
    pub(super) folded: String,
    pub(super) marked: String,
    pub(super) length: i16,
}

impl Prefix {
    /// `None` for white space.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let mut folded = fold(text.trim());
        folded.truncate(LENGTH_MAX);
        if folded.is_empty() {
            return None;
        }
        let length = i16::try_from(folded.len()).unwrap_or(i16::MAX);
        let marked = marked(&folded, &beginnings(&folded));
        Some(Self { folded: folded.into_iter().collect(), marked, length })
    }

    /// Whether a word of the name begins with it.
    #[must_use]
    pub fn is_in(&self, name: &str) -> bool {
        FoldedName::new(name).words.iter().any(|(word, _)| word.starts_with(&self.folded))
    }

    /// The first text after all that begin with it, in the order of code points; `None` if there is none.
    pub(super) fn end(&self) -> Option<String> {
        let mut end: Vec<char> = self.folded.chars().collect();
        while let Some(last) = end.pop() {
            // The surrogates are no characters.
            let next =
                if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(last as u32 + 1) };
            if let Some(next) = next {
                end.push(next);
                return Some(end.into_iter().collect());
            }
        }
        None
    }
}

/// The text by which names are sorted.
pub(super) fn sort_key(name: &str) -> String {
    let mut folded = fold(name);
    folded.truncate(LENGTH_MAX);
    folded.into_iter().collect()
}

/// Without letters and digits, what there is instead, such as an emoji.
fn fold(text: &str) -> Vec<char> {
    let plain = text.nfkd().filter(|c| !is_accent(*c));
    // By way of upper case, letters with two lower cases become one: sigma, long s, dotless i. It may compose.
    let lower = plain.flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect::<String>();
    let letters: Vec<char> =
        lower.nfkd().filter(|c| !is_accent(*c)).flat_map(base_letters).collect();
    let mut folded: Vec<char> = vec![];
    for c in letters.iter().copied().filter(|c| !is_apostrophe(*c)) {
        if is_of_word(c) {
            folded.push(c);
        } else if folded.last().is_some_and(|last| *last != ' ') {
            folded.push(' ');
        }
    }
    if folded.last() == Some(&' ') {
        folded.pop();
    }
    if folded.is_empty() {
        folded = letters.into_iter().map(|c| if c == MARK { ' ' } else { c }).collect();
    }
    folded
}

/// Marks that change the sound of a letter, or its tone: those that combine with it. Vowel signs, which make another
/// syllable, are no such marks, and a virama joins two letters.
fn is_accent(c: char) -> bool {
    const VIRAMA: u8 = 9;
    !matches!(canonical_combining_class(c), 0 | VIRAMA) || matches!(c, '\u{200c}' | '\u{200d}')
}

/// Letters that a keyboard elsewhere does not have, and that do not decompose.
fn base_letters(c: char) -> impl Iterator<Item = char> {
    let plain = match c {
        'ø' => "o",
        'ł' => "l",
        'đ' | 'ð' => "d",
        'ħ' => "h",
        'ŧ' => "t",
        'ɨ' => "i",
        'ʉ' => "u",
        'ƶ' => "z",
        'æ' => "ae",
        'œ' => "oe",
        'þ' => "th",
        _ => "",
    };
    let same = plain.is_empty().then_some(c);
    plain.chars().chain(same)
}

/// O'Brien, O’Brien and OBrien are one name.
fn is_apostrophe(c: char) -> bool {
    matches!(c, '\'' | '’' | '‘' | 'ʼ' | 'ʻ' | '`')
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || canonical_combining_class(c) != 0
}

/// The places of a folded text at which a word begins.
fn beginnings(folded: &[char]) -> Vec<usize> {
    let begins = |at: usize| {
        let is_first = at == 0 || folded[at - 1] == ' ';
        folded[at] != ' ' && (is_first || has_no_spaces(folded[at]))
    };
    let found: Vec<usize> = (0..folded.len()).filter(|at| begins(*at)).collect();
    if found.is_empty() { vec![0] } else { found }
}

/// Letters of scripts that put no spaces between words: each may begin one.
fn has_no_spaces(c: char) -> bool {
    matches!(c,
        // Thai, Lao, Myanmar, Khmer.
        '\u{e01}'..='\u{e2e}' | '\u{e81}'..='\u{eae}' | '\u{1000}'..='\u{102a}' | '\u{1780}'..='\u{17b3}'
        // Hangul, of which NFKD leaves the letters: the first of a syllable.
        | '\u{1100}'..='\u{115f}'
        // Kana, and the ideographs of Chinese and Japanese.
        | '\u{3041}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{20000}'..='\u{3ffff}'
    )
}

fn marked(folded: &[char], beginnings: &[usize]) -> String {
    let mut marked = String::new();
    for (at, c) in folded.iter().enumerate() {
        if beginnings.binary_search(&at).is_ok() {
            marked.push(MARK);
        }
        marked.push(*c);
    }
    marked
}

fn common_prefix(one: &[char], other: &[char]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_differ_in_case_accents_width_and_punctuation_fold_to_one() {
        for (one, other) in [
            ("Ada Lovelace", "ada LOVELACE"),
            ("Zoë Müller", "Zoe Muller"),
            ("Ｚｏｅ　Müller", "zoe muller"),
            ("Strauß", "STRAUSS"),
            ("Søren Łukasiewicz", "soren lukasiewicz"),
            ("O’Brien", "O'brien"),
            ("Jean-Luc", "Jean Luc"),
            ("J. R. R. Tolkien", "J R R Tolkien"),
            ("ΟΔΥΣΣΕΥΣ", "Οδυσσεύς"),
            ("Işık", "ISIK"),
            ("ﾀﾅｶ", "タナカ"),
            ("ガ", "カ"),
            ("Ёлкин", "елкин"),
            ("مُحَمَّد", "محمد"),
        ] {
            assert_eq!(fold(one), fold(other), "{one} {other}");
        }
        for (one, other) in [("राम", "रोम"), ("กา", "กี"), ("山田", "山口"), ("김", "이")]
        {
            assert_ne!(fold(one), fold(other), "{one} {other}");
        }
    }

    #[test]
    fn a_prefix_of_any_word_finds_a_name_and_nothing_within_a_word_does() {
        for (prefix, name) in [
            ("lov", "Ada Lovelace"),
            ("ada l", "Ada Lovelace"),
            ("太郎", "山田太郎"),
            ("철수", "김철수"),
            ("กา", "สมกานต์"),
            ("luc", "Jean-Luc Picard"),
            ("obr", "Conan O’Brien"),
            ("2", "Henry 2nd"),
            ("🦊", "🦊"),
        ] {
            assert!(Prefix::new(prefix).unwrap().is_in(name), "{prefix} {name}");
        }
        for (prefix, name) in [("ove", "Ada Lovelace"), ("rien", "O’Brien"), ("ada  x", "Ada L")]
        {
            assert!(!Prefix::new(prefix).unwrap().is_in(name), "{prefix} {name}");
        }
        assert_eq!(Prefix::new(" \t"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn the_ways_to_find_a_name_agree(name in "[aAbÄ山 '-]{1,12}", prefix in "[aAbä山 ]{1,4}") {
            let folded = FoldedName::new(&name);
            let Some(prefix) = Prefix::new(&prefix) else { return Ok(()) };
            let begins = |word: &String| word.starts_with(&prefix.folded);
            let found = folded.words.iter().filter(|(word, _)| begins(word)).count();
            // By the marks, by the order of the words, and by one word only.
            prop_assert_eq!(found > 0, folded.marked.contains(&prefix.marked));
            let end = prefix.end().unwrap();
            for (word, _) in &folded.words {
                prop_assert_eq!(begins(word), *word >= prefix.folded && *word < end);
            }
            let by = folded.words.iter().filter(|(word, shared)| begins(word) && *shared < prefix.length);
            prop_assert_eq!(by.count(), usize::from(found > 0));
        }

        #[test]
        fn any_text_is_folded_and_found_by_itself(name in "\\PC{1,128}") {
            let folded = FoldedName::new(&name);
            prop_assert!(!folded.words.is_empty());
            if let Some(prefix) = Prefix::new(&name) {
                prop_assert!(prefix.is_in(&name));
            }
        }
    }
}
