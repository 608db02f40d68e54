//! The lines of the doctor: printed as they come, or as JSON at the end.

use std::io::Write;

use connectors::{Connector, Diagnosis, Verdict};
use serde_json::{Value, json};

use crate::exit::{Answer, Failure};
use crate::output::{Out, Style, count};

pub(super) struct Report<'a> {
    out: &'a mut Out,
    url: String,
    connector: Option<String>,
    lines: Vec<Diagnosis>,
    as_json: bool,
}

/// The width of the column of checks.
const WIDTH: usize = 12;

impl<'a> Report<'a> {
    pub(super) fn new(url: String, as_json: bool, out: &'a mut Out) -> Self {
        Self { out, url, connector: None, lines: Vec::new(), as_json }
    }

    pub(super) fn opened(&mut self, store: &Connector) {
        self.connector = Some(store.name().to_owned());
    }

    pub(super) fn add(&mut self, line: Diagnosis) -> Result<(), Failure> {
        if !self.as_json {
            let Style { bold, green, red, plain, .. } = self.out.style();
            let colour = match line.verdict {
                Verdict::Ok => green,
                Verdict::Fail => red,
                _ => bold,
            };
            let (word, check) = (line.verdict.as_str(), &line.check);
            let message = self.out.shown(&line.message).into_owned();
            writeln!(self.out, "{colour}{word:4}{plain}  {check:WIDTH$}  {message}")?;
            if let Some(advice) = &line.advice {
                let advice = self.out.shown(advice).into_owned();
                writeln!(self.out, "{:4}  {:WIDTH$}  -> {advice}", "", "")?;
            }
        }
        self.lines.push(line);
        Ok(())
    }

    pub(super) fn end(self, is_interrupted: bool) -> Result<Answer, Failure> {
        let number = |verdict| self.lines.iter().filter(|line| line.verdict == verdict).count();
        let (failed, warned) = (number(Verdict::Fail), number(Verdict::Warn));
        if self.as_json {
            let line = |line: &Diagnosis| {
                json!({
                    "check": line.check, "verdict": line.verdict.as_str(),
                    "message": line.message, "advice": line.advice,
                })
            };
            let checks: Vec<Value> = self.lines.iter().map(line).collect();
            self.out.json(&json!({
                "url": self.url, "connector": self.connector, "passed": failed == 0, "checks": checks,
            }))?;
        } else {
            let all = count(self.lines.len(), "check");
            writeln!(self.out, "\n{all}: {failed} failed, {}", count(warned, "warning"))?;
        }
        if is_interrupted { Ok(Answer::Interrupted) } else { Ok(Answer::yes_if(failed == 0)) }
    }
}
