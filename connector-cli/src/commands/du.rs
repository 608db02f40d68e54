//! `kvconn du`: the chunks and the bytes of each model.

use std::collections::BTreeMap;
use std::io::Write;

use connectors::Connector;
use futures::TryStreamExt;
use serde::Serialize;

use crate::args::DuArgs;
use crate::exit::{Answer, Failure};
use crate::output::{Out, Progress, mode};
use crate::setup::Setup;
use crate::size::ByteSize;

/// The output of `--json`.
#[derive(Serialize)]
struct Json {
    #[serde(flatten)]
    total: Usage,
    models: Vec<OfModel>,
}

#[derive(Serialize)]
struct OfModel {
    /// `None` for keys whose text has several readings.
    model: Option<String>,
    #[serde(flatten)]
    usage: Usage,
}

#[derive(Clone, Copy, Default, Serialize)]
struct Usage {
    chunks: usize,
    /// The bytes of the chunks whose size the store knows.
    bytes: u64,
    chunks_of_unknown_size: usize,
}

impl Usage {
    fn add(&mut self, size: Option<u64>) {
        self.chunks += 1;
        self.bytes += size.unwrap_or(0);
        self.chunks_of_unknown_size += usize::from(size.is_none());
    }
}

pub(crate) async fn run(setup: &Setup, args: &DuArgs, out: &mut Out) -> Result<Answer, Failure> {
    setup
        .with_store(&setup.store(&args.url)?, async |store| {
            let (total, models) = count(setup, store, &args.prefix).await?;
            if mode::is_json() {
                let models = models.into_iter().map(|(model, usage)| OfModel { model, usage }).collect();
                out.json(&Json { total, models })?;
                return Ok(Answer::Yes);
            }
            let size = |usage| size(usage, args.human);
            writeln!(out, "{:>10}  {:>15}  MODEL", "CHUNKS", if args.human { "SIZE" } else { "BYTES" })?;
            for (model, usage) in &models {
                let model = model.as_deref().map_or("(several readings)".into(), |model| out.shown(model));
                writeln!(out, "{:>10}  {:>15}  {model}", usage.chunks, size(usage))?;
            }
            writeln!(out, "{:>10}  {:>15}  total", total.chunks, size(&total))?;
            Ok(Answer::Yes)
        })
        .await
}

/// Counts all chunks, and those of each model. Its memory grows only with the number of models.
async fn count(
    setup: &Setup,
    store: &Connector,
    prefix: &str,
) -> Result<(Usage, BTreeMap<Option<String>, Usage>), Failure> {
    let (mut total, mut models) = (Usage::default(), BTreeMap::<Option<String>, Usage>::new());
    let mut entries = setup.list_entries(store, prefix);
    let progress = Progress::counter();
    while let Some(entry) = entries.try_next().await? {
        total.add(entry.size);
        if total.chunks % 1000 == 0 {
            progress.say(format!("{} chunks, {}", total.chunks, ByteSize(total.bytes as usize)));
        }
        let model = entry.key.model_name().map(str::to_owned);
        models.entry(model).or_default().add(entry.size);
    }
    Ok((total, models))
}

/// `12582912` or `12 MiB`, `12 MiB + 3 of unknown size`, or `-` if the store knows no size.
fn size(usage: &Usage, human: bool) -> String {
    let known = if human { ByteSize(usage.bytes as usize).to_string() } else { usage.bytes.to_string() };
    match usage.chunks_of_unknown_size {
        0 => known,
        unknown if unknown == usage.chunks => "-".into(),
        unknown => format!("{known} + {unknown} of unknown size"),
    }
}
