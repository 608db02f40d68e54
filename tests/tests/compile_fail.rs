//! What an author sees for each wrong use of the attributes: one clear error, at the right place, without a private name.
//!
//! After a change of a message: `TRYBUILD=overwrite cargo test -p kvconn-tests --test compile_fail`, then read the diff as
//! an author would. The `.stderr` files hold the words of Rust 1.95: another release may phrase its own part differently.
#![forbid(unsafe_code)]

#[test]
fn wrong_uses_say_what_to_write_and_right_ones_compile() {
    // Two runs: without a passing case among them, trybuild checks all wrong ones in one go.
    let right = trybuild::TestCases::new();
    right.pass("ui/pass/*.rs");
    drop(right);
    let wrong = trybuild::TestCases::new();
    wrong.compile_fail("ui/*.rs");
}

/// How many errors a file shows. One, unless it holds more mistakes, or the compiler itself repeats one.
const MORE_THAN_ONE: [(&str, usize); 4] = [
    ("neither_trait", 2),
    ("several_wrong_arguments", 4),
    // Each method's future borrows the struct; the attribute has no part in it.
    ("struct_not_sync", 4),
    ("wrong_argument_on_an_enum", 2),
];

/// `TRYBUILD=overwrite` accepts whatever the compiler says; this does not.
#[test]
fn no_mistake_is_told_twice_and_no_message_shows_a_private_name() {
    let folder = kvconn_tests::package_dir().join("ui");
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
