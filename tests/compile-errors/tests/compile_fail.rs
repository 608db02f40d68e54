//! The errors that an author gets for each wrong use of the attributes: one error, at the right place, without a private name.
//!
//! After you change a message, run `TRYBUILD=overwrite cargo test -p kvconn-compile-errors` and read the diff. The
//! `.stderr` files have the text of Rust 1.95. Another release may phrase the compiler's part differently.
#![forbid(unsafe_code)]

use std::path::Path;

#[test]
fn wrong_uses_give_the_expected_errors_and_right_uses_compile() {
    // Two runs, because trybuild checks all failing cases at once only without a passing case among them.
    let right = trybuild::TestCases::new();
    right.pass("ui/pass/*.rs");
    drop(right);
    let wrong = trybuild::TestCases::new();
    wrong.compile_fail("ui/*.rs");
}

/// The files that show more than one error, because they have several mistakes or the compiler repeats an error.
const MORE_THAN_ONE: [(&str, usize); 5] = [
    ("neither_trait", 2),
    ("option_with_wrong_values", 3),
    ("several_wrong_arguments", 4),
    // Each method's future borrows the struct, so the compiler reports each method. The attribute has no part in this.
    ("struct_not_sync", 4),
    ("wrong_argument_on_an_enum", 2),
];

/// `TRYBUILD=overwrite` accepts any message. This test does not.
#[test]
fn each_mistake_gives_one_error_and_no_message_shows_a_private_name() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("ui");
    let entries = std::fs::read_dir(&folder).expect("ui/ is there");
    let files = entries.map(|entry| entry.expect("ui/ can be read").path());
    let messages: Vec<_> = files.filter(|file| file.extension().is_some_and(|e| e == "stderr")).collect();
    assert!(messages.len() > MORE_THAN_ONE.len(), "no messages in {}", folder.display());
    for file in messages {
        let name = file.file_stem().expect("a file has a name").to_string_lossy();
        let message = std::fs::read_to_string(&file).expect("a message is text");
        for private in ["__private", "linkme", "KVCONN_", "Dyn", "Factory", "const _"] {
            assert!(!message.contains(private), "{name} shows `{private}`:\n{message}");
        }
        let errors = message.lines().filter(|l| l.starts_with("error:") || l.starts_with("error[")).count();
        let expected = MORE_THAN_ONE.iter().find(|(file, _)| *file == name).map_or(1, |(_, errors)| *errors);
        assert_eq!(errors, expected, "{name} shows another number of errors:\n{message}");
    }
}
