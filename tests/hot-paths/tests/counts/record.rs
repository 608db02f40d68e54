//! The recorded counts, and the setting that they depend on.

use std::path::PathBuf;
use std::process::Command;

/// The command that writes the record.
pub(crate) const HOW_TO_RECORD: &str = "This command records: cargo test -p kvconn-hot-paths --test counts -- --record";

/// The counts of `record.txt`.
pub(crate) struct Record {
    pub(crate) setting: Setting,
    instructions: Vec<(String, f64)>,
}

/// Each program and device that changes the counts, and its version.
pub(crate) struct Setting(Vec<(String, String)>);

impl Setting {
    pub(crate) fn here() -> Self {
        let flags: Vec<String> = std::env::vars()
            .filter(|(name, _)| name.ends_with("RUSTFLAGS") || name.starts_with("CARGO_PROFILE_RELEASE"))
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let parts = [
            ("compiler", first_line("rustc", "--version")),
            ("flags", if flags.is_empty() { "none".into() } else { flags.join(" ") }),
            ("valgrind", first_line("valgrind", "--version")),
            ("C library", first_line("ldd", "--version")),
            ("processor", processor()),
        ];
        Self(parts.map(|(name, value)| (name.to_owned(), value)).into())
    }

    /// The parts that differ from those of a record.
    pub(crate) fn differences(&self, record: &Self) -> Vec<String> {
        let differs = |((name, here), (_, there)): (&(String, String), &(String, String))| {
            (here != there).then(|| format!("the {name} is `{here}`, not `{there}`"))
        };
        self.0.iter().zip(&record.0).filter_map(differs).collect()
    }
}

/// The kind of the processor, and its instructions that valgrind knows and that a library may choose.
fn processor() -> String {
    let known = ["avx2", "bmi2", "erms", "rdrand", "sha_ni"];
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has = |name: &&str| info.split_whitespace().any(|flag| flag == *name);
    let parts = [std::env::consts::ARCH].into_iter().chain(known.into_iter().filter(has));
    parts.collect::<Vec<_>>().join(" ")
}

fn first_line(program: &str, argument: &str) -> String {
    let output = Command::new(program).arg(argument).output();
    let output = output.unwrap_or_else(|e| panic!("`{program}` does not start: {e}"));
    String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned()
}

impl Record {
    pub(crate) fn of(instructions: Vec<(String, f64)>) -> Self {
        Self { setting: Setting::here(), instructions }
    }

    pub(crate) fn read() -> Self {
        let text = std::fs::read_to_string(path()).unwrap_or_else(|e| panic!("no record: {e}. {HOW_TO_RECORD}"));
        let (setting, counts) = text.split_once("\n\n").expect("a blank line after the setting");
        let pairs = |text: &str| -> Vec<(String, String)> {
            let lines = text.lines().filter_map(|line| line.split_once(": "));
            lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        let count = |(name, value): (String, String)| (name, value.parse().expect("a count"));
        Self { setting: Setting(pairs(setting)), instructions: pairs(counts).into_iter().map(count).collect() }
    }

    pub(crate) fn write(&self) {
        let line = |name: &str, value: &str| format!("{name}: {value}\n");
        let setting: String = self.setting.0.iter().map(|(name, value)| line(name, value)).collect();
        let counts: String = self.instructions.iter().map(|(name, n)| line(name, &format!("{n:.0}"))).collect();
        std::fs::write(path(), format!("{setting}\n{counts}")).expect("the record can be written");
        print!("{setting}\n{counts}");
    }

    pub(crate) fn instructions(&self, name: &str) -> Option<f64> {
        self.instructions.iter().find(|(known, _)| known == name).map(|(_, count)| *count)
    }
}

fn path() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/record.txt").into()
}
