//! The nearest known name to a misspelt one.

/// The nearest of `known` to a text, if it is near enough to be a misspelling.
pub(crate) fn nearest<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = text.to_lowercase();
    known
        .filter(|k| !k.is_empty())
        .map(|k| (strsim::damerau_levenshtein(&lower, &k.to_lowercase()), k))
        .filter(|(distance, k)| *distance <= 2.max(k.chars().count() / 3) && *distance < k.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

/// ` (did you mean `X`?)`, or nothing.
pub(crate) fn did_you_mean<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> String {
    nearest(text, known).map_or_else(String::new, |k| format!(" (did you mean `{k}`?)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_offered_and_far_ones_are_not() {
        let known = ["kvconn.fs", "kvconn.memory", "acme.kv"];
        assert_eq!(nearest("kvcon.fs", known.into_iter()), Some("kvconn.fs"));
        assert_eq!(nearest("KVCONN.MEMORY", known.into_iter()), Some("kvconn.memory"));
        assert_eq!(nearest("json", known.into_iter()), None);
        assert_eq!(did_you_mean("x", ["y"].into_iter()), "");
    }
}
