//! `kvconn check`: runs the conformance kit on a store.

use std::io::Write;
use std::time::{Duration, Instant};

use connectors::conformance::{Check, CheckResult, Kit, Outcome, Report, checks};
use connectors::{ContextBuilder, Error, ErrorKind, redact};
use serde::Serialize;
use serde_json::json;

use crate::args::CheckArgs;
use crate::exit::{Answer, Failure};
use crate::output::{Out, Style, Time, users};
use crate::setup::Setup;

/// The output of `--json`.
#[derive(Serialize)]
struct Json<'a> {
    url: String,
    connector: &'a str,
    passed: bool,
    seconds: f64,
    #[serde(flatten)]
    report: &'a Report,
}

pub(crate) async fn run(setup: &Setup, args: &CheckArgs, out: &mut Out) -> Result<Answer, Failure> {
    // A chapter's title is its name with spaces.
    let filter = args.filter.as_ref().map(|text| text.trim().to_ascii_lowercase().replace([' ', '-'], "_"));
    let wanted = |c: &Check| filter.as_ref().is_none_or(|text| c.name.contains(&**text) || c.chapter == text);
    if !checks().iter().any(wanted) {
        let text = users(args.filter.as_deref().unwrap_or_default());
        let chapters: Vec<_> = checks().chunk_by(|a, b| a.chapter == b.chapter).map(|c| c[0].chapter).collect();
        let text = format!("no chapter is called `{text}`, and no check has it in its name");
        return Err(Error::new(ErrorKind::InvalidInput, text)
            .with_hint(format!("the chapters are {}; `kvconn check --list` lists the checks", chapters.join(", ")))
            .into());
    }
    let Some(url) = &args.url else { return list(args, wanted, out) };
    let limit = Duration::from_secs(args.timeout.get());
    // Without a name, the open or the close hangs. The checks say which.
    let name = setup.interrupt.stops(first_look(setup.builder(url), limit / 8)).await??;
    let name = name.unwrap_or_else(|| redact(url));
    let start = Instant::now();
    let width = checks().iter().filter(|c| wanted(c)).map(|c| c.name.len()).max().unwrap_or(0);
    let mut shown = if args.json { Ok(()) } else { head(&name, width, out) };
    let show = |result: &CheckResult| {
        // The summary counts the checks that need a failed one.
        if !args.json && shown.is_ok() && result.needs.is_none() {
            shown = row(result, width, out);
        }
        shown.is_ok() && !setup.interrupt.is_set()
    };
    let checks = Kit::from(setup.builder(url)).limit(limit);
    let report = setup.interrupt.in_time(checks.run_some(wanted, show)).await?;
    shown?;
    if args.json {
        let (connector, seconds) = (&*name, start.elapsed().as_secs_f64());
        out.json(&Json { url: redact(url), connector, passed: report.passed(), seconds, report: &report })?;
    } else {
        summary(&report, Time(start.elapsed()), out)?;
    }
    // The report counts, not the signal: a signal after the last check has interrupted nothing.
    if report.interrupted {
        return Ok(Answer::Interrupted);
    }
    Ok(Answer::yes_if(report.passed()))
}

/// Opens the store once before the checks, so a wrong URL gives one error instead of one for each check. Gives the
/// connector's name, or none if that takes too long.
async fn first_look(builder: ContextBuilder, limit: Duration) -> Result<Option<String>, Error> {
    // On another thread, which the store may block.
    let name = tokio::spawn(async {
        let store = builder.open().await?;
        store.close().await?;
        Ok(store.name().to_owned())
    });
    match tokio::time::timeout(limit, name).await {
        Ok(Ok(name)) => name.map(Some),
        // The checks say where it panics.
        Ok(Err(_)) | Err(_) => Ok(None),
    }
}

fn list(args: &CheckArgs, wanted: impl Fn(&Check) -> bool, out: &mut Out) -> Result<Answer, Failure> {
    let rules: Vec<_> = checks().iter().filter(|c| wanted(c)).collect();
    if args.json {
        let rule = |c: &&Check| json!({ "name": c.name, "chapter": c.chapter, "rule": c.rule });
        out.json(&rules.iter().map(rule).collect::<Vec<_>>())?;
        return Ok(Answer::Yes);
    }
    for chapter in rules.chunk_by(|a, b| a.chapter == b.chapter) {
        let Style { bold, plain, .. } = out.style();
        writeln!(out, "{bold}{}{plain}", chapter[0].chapter)?;
        for check in chapter {
            writeln!(out, "  {}\n      {}", check.name, check.rule)?;
        }
    }
    Ok(Answer::Yes)
}

fn head(name: &str, width: usize, out: &mut Out) -> Result<(), Failure> {
    let Style { bold, plain, .. } = out.style();
    Ok(writeln!(out, "{name}\n{bold}{:width$}  {:<7}  TIME{plain}", "CHECK", "RESULT")?)
}

fn row(result: &CheckResult, width: usize, out: &mut Out) -> Result<(), Failure> {
    let Style { green, red, plain, .. } = out.style();
    let (colour, word, why) = match &result.outcome {
        Outcome::Passed => (green, "passed", None),
        Outcome::Failed(why) => (red, "FAILED", Some(why)),
        Outcome::Skipped(why) => ("", "skipped", Some(why)),
    };
    writeln!(out, "{:width$}  {colour}{word:<7}{plain}  {:>7}", result.name, Time(result.elapsed))?;
    if let Some(why) = why {
        writeln!(out, "    {}", out.shown(why))?;
    }
    if result.is_failure() {
        writeln!(out, "    the rule: {}", result.rule)?;
    }
    // A check may take long, so a reader of a pipe sees each result as soon as it exists.
    Ok(out.flush()?)
}

fn summary(report: &Report, time: Time, out: &mut Out) -> Result<(), Failure> {
    let (all, failed, skipped) = (report.checks.len(), report.failures().count(), report.skipped().count());
    let note = match report.interrupted {
        true => "; interrupted",
        false if all == skipped => "; nothing was checked",
        false => "",
    };
    for (cause, n) in report.needed() {
        writeln!(out, "{n} skipped: they need {}, which failed", cause.name)?;
    }
    Ok(writeln!(out, "{} passed, {failed} failed, {skipped} skipped in {time}{note}", all - failed - skipped)?)
}
