//! `${NAME}` in the value of an option.

use std::env::VarError;

/// The text with each `${NAME}` replaced by that environment variable; `$${` stands for `${`.
///
/// # Errors
/// The reason. It shows the variable's name only if the whole text is one `${NAME}`: in a longer text, the name may be a part
/// of a password with a literal `${`.
pub(crate) fn expand(text: &str) -> Result<String, String> {
    expand_with(text, |name| std::env::var(name))
}

fn expand_with(text: &str, variable: impl Fn(&str) -> Result<String, VarError>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        rest = &from[2..];
        if let Some(literal) = before.strip_suffix('$') {
            out.extend([literal, "${"]);
            continue;
        }
        let name = rest.find('}').map(|end| &rest[..end]).filter(|name| is_name(name)).ok_or(
            "`${` does not start the name of an environment variable, as in `${NAME}`; write `$${` for a literal `${`",
        )?;
        let value = variable(name).map_err(|e| match e {
            VarError::NotPresent => format!("{} is not set", shown(text, name)),
            VarError::NotUnicode(_) => format!("{} is not UTF-8 text", shown(text, name)),
        })?;
        out.extend([before, &*value]);
        rest = &rest[name.len() + 1..];
    }
    out.push_str(rest);
    if out.is_empty() && !text.is_empty() {
        return Err("its environment variable is empty".to_owned());
    }
    Ok(out)
}

fn shown(text: &str, name: &str) -> String {
    if is_variable(text) {
        format!("environment variable `{name}`")
    } else {
        "the environment variable behind `${` (write `$${` for a literal `${`)".to_owned()
    }
}

/// Whether all of the text is one `${NAME}`.
pub(crate) fn is_variable(text: &str) -> bool {
    text.strip_prefix("${").and_then(|text| text.strip_suffix('}')).is_some_and(is_name)
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_once() {
        let variable = |name: &str| match name {
            "A" => Ok("hunter2".to_owned()),
            "NESTED" => Ok("${A}".to_owned()),
            "EMPTY" => Ok(String::new()),
            _ => Err(VarError::NotPresent),
        };
        for (text, expanded) in [
            ("", "".to_owned()),
            ("plain $A {A}", "plain $A {A}".to_owned()),
            ("${A}", "hunter2".to_owned()),
            ("x${A}y${A}", "xhunter2yhunter2".to_owned()),
            ("${NESTED}", "${A}".to_owned()),
            ("a${EMPTY}", "a".to_owned()),
            ("$${A}", "${A}".to_owned()),
            ("$$${A}", "$${A}".to_owned()),
            ("$${", "${".to_owned()),
            ("ä${A}ö", "ähunter2ö".to_owned()),
        ] {
            assert_eq!(expand_with(text, variable).unwrap(), expanded, "{text}");
        }
        for (text, why) in [
            ("${B}", "`B` is not set"),
            ("x${B}", "the environment variable behind `${` (write `$${` for a literal `${`) is not set"),
            ("hunter${hunter2}", "behind `${`"),
            ("${", "write `$${`"),
            ("s${A", "write `$${`"),
            ("${}", "write `$${`"),
            ("${a b}", "write `$${`"),
            ("${1}", "write `$${`"),
            ("${EMPTY}", "is empty"),
        ] {
            let e = expand_with(text, variable).unwrap_err();
            assert!(e.contains(why) && !e.contains("hunter2"), "{text}: {e}");
        }
    }
}
