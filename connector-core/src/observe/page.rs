//! A page of metrics, as Prometheus reads it.

use std::fmt::{self, Display, Formatter};

use super::recorder::{BUCKETS, Family, Sample, Value};

/// The metrics that have samples, in Prometheus' text format, version 0.0.4.
///
/// ```
/// let (recorder, _) = connector_core::observe::install();
/// let page = connector_core::observe::page(&recorder.snapshot());
/// ```
pub fn page(families: &[Family]) -> String {
    families.iter().filter(|family| !family.samples.is_empty()).map(Page).map(|page| page.to_string()).collect()
}

struct Page<'a>(&'a Family);

impl Display for Page<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Family { name, kind, help, samples } = self.0;
        writeln!(f, "# HELP {name} {}", help.replace('\\', r"\\").replace('\n', r"\n"))?;
        writeln!(f, "# TYPE {name} {}", kind.as_str())?;
        samples.iter().try_for_each(|sample| lines(f, name, sample))
    }
}

fn lines(f: &mut Formatter<'_>, name: &str, Sample { labels, value }: &Sample) -> fmt::Result {
    let (counts, sum) = match value {
        Value::Number(number) => return writeln!(f, "{name}{} {number}", Braced(labels, None)),
        Value::Histogram { counts, sum } => (counts, sum),
    };
    let bounds = BUCKETS.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
    let mut below = 0;
    for (bound, count) in bounds.zip(counts) {
        below += count;
        writeln!(f, "{name}_bucket{} {below}", Braced(labels, Some(&bound)))?;
    }
    writeln!(f, "{name}_sum{} {sum}", Braced(labels, None))?;
    writeln!(f, "{name}_count{} {below}", Braced(labels, None))
}

/// Labels in braces, with the upper bound of a bucket.
struct Braced<'a>(&'a [(String, String)], Option<&'a str>);

impl Display for Braced<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let labels = self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let labels = labels.chain(self.1.map(|bound| ("le", bound)));
        for (n, (name, value)) in labels.clone().enumerate() {
            f.write_str(if n == 0 { "{" } else { "," })?;
            write!(f, "{name}=\"{}\"", value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n"))?;
        }
        if labels.count() > 0 { f.write_str("}") } else { Ok(()) }
    }
}
