//! `registry/lookup/{10,1000,10000}`: finds an entry by module and name among this number of connectors. Budget: 100
//! ns, and no allocation (asserted in `tests/allocations.rs`).

#[path = "../tests/entries/mod.rs"]
mod entries;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

fn lookup(c: &mut Criterion) {
    let mut group = c.benchmark_group("registry/lookup");
    for n in [10, 1_000, 10_000] {
        let index = entries::index_of(n);
        let (module, name) = entries::name_of(n / 2);
        group.bench_function(BenchmarkId::from_parameter(n), |b| {
            b.iter(|| index.find(black_box(&module), black_box(&name)).map(|e| e.name()).ok());
        });
    }
    group.finish();
}

criterion_group!(benches, lookup);
criterion_main!(benches);
