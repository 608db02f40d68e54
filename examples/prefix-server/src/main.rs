//! Serves prompts from a store, as an inference server does. It hashes the tokens chunk by chunk and asks the store for the
//! length of the stored prefix. Then it loads that prefix, computes the other chunks and stores them.
//!
//!     cargo run -p prefix-server [URL]
//!
//! The default URL opens the connector of the crate `acme-kv`. Run it twice with `fs:///tmp/prefixes` to see hits.
#![forbid(unsafe_code)]

use acme_kv as _; // Links the connector.

use connectors::key::chain_prefix;
use connectors::{
    CacheEngineKey, CacheKey, Connector, Dtype, Error, ErrorKind, LMCacheMetadata, LayerGroup, LocalCpuBackend, Result,
};

const MODEL: &str = "acme/tiny-4-layers";
/// Tokens per chunk. LMCache's default.
const CHUNK_SIZE: usize = 256;

struct Server {
    connector: Connector,
    backend: LocalCpuBackend,
    metadata: LMCacheMetadata,
}

#[derive(Debug, Default, PartialEq)]
struct Served {
    loaded_tokens: usize,
    computed_tokens: usize,
}

impl Server {
    async fn new(url: &str) -> Result<Self> {
        let layers = LayerGroup { kv_size: 2, num_layers: 4, hidden_dim: 256, dtype: Dtype::Bfloat16 };
        let metadata = LMCacheMetadata::new(MODEL, 1, 0, CHUNK_SIZE, &[layers])?;
        let backend = LocalCpuBackend::with_capacity(64 << 20);
        let builder = connectors::builder(url).local_cpu_backend(backend.clone()).metadata(metadata.clone());
        Ok(Self { connector: builder.open().await?, backend, metadata })
    }

    async fn serve(&self, tokens: &[u32]) -> Result<Served> {
        let keys: Vec<CacheKey> = chain_prefix("0", tokens, CHUNK_SIZE)
            .map(|hash| CacheEngineKey::new(MODEL, 1, 0, hash, Dtype::Bfloat16).map(Into::into))
            .collect::<Result<_>>()?;
        let chunks: Vec<&[u32]> = tokens.chunks(CHUNK_SIZE).collect();
        let mut served = Served::default();
        let mut loaded_chunks = 0;

        // One call for the whole prompt. A chunk after a missing one is useless, so only the prefix counts.
        let hits = self.connector.batched_contains(&keys).await?;
        for (loaded, tokens) in self.connector.batched_get(&keys[..hits]).await.into_iter().zip(&chunks) {
            // A chunk that the store has evicted in the meantime, or cannot read, ends the prefix.
            let Ok(Some(cache)) = loaded else { break };
            if *cache != *self.compute(tokens).await? {
                return Err(Error::new(ErrorKind::Corrupt, "the store returned a chunk of different tokens"));
            }
            served.loaded_tokens += tokens.len();
            loaded_chunks += 1;
        }

        for (key, tokens) in keys.iter().zip(&chunks).skip(loaded_chunks) {
            self.connector.put(key, self.compute(tokens).await?).await?;
            served.computed_tokens += tokens.len();
        }
        Ok(served)
    }

    /// Stands in for the model. Gives bytes that depend on every token.
    async fn compute(&self, tokens: &[u32]) -> Result<connectors::MemoryObj> {
        let raw = self.metadata.chunk_layout();
        let mut cache = self.backend.allocate(&raw.for_tokens(tokens.len())?).await?;
        for (bytes, token) in cache.chunks_mut(raw.token_bytes).zip(tokens) {
            for (i, byte) in bytes.iter_mut().enumerate() {
                *byte = token.to_le_bytes()[i % 4] ^ (i as u8);
            }
        }
        Ok(cache.freeze())
    }
}

async fn run(url: &str) -> Result<()> {
    let server = Server::new(url).await?;
    let system_prompt: Vec<u32> = (0..1000).collect();
    let with = |question: std::ops::Range<u32>| system_prompt.iter().copied().chain(question).collect::<Vec<_>>();

    for (name, prompt) in [
        ("a new prompt", with(5000..5100)),
        ("the same prompt again", with(5000..5100)),
        ("another question with the same beginning", with(7000..7300)),
    ] {
        let served = server.serve(&prompt).await?;
        println!(
            "{name}: {} tokens, {} loaded from the store, {} computed and stored",
            prompt.len(),
            served.loaded_tokens,
            served.computed_tokens
        );
    }
    server.connector.close().await
}

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let default = "external://localhost:0/acme.kv/?connector_name=AcmeConnector".to_owned();
    let url = std::env::args().nth(1).unwrap_or(default);
    match run(&url).await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("prefix-server: {e}");
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_shared_beginning_is_computed_once() -> Result<()> {
        let server = Server::new("acme://localhost:0").await?;
        let first: Vec<u32> = (0..600).collect();
        assert_eq!(server.serve(&first).await?, Served { loaded_tokens: 0, computed_tokens: 600 });
        assert_eq!(server.serve(&first).await?, Served { loaded_tokens: 600, computed_tokens: 0 });
        let longer: Vec<u32> = (0..512).chain(9000..9100).collect();
        assert_eq!(server.serve(&longer).await?, Served { loaded_tokens: 512, computed_tokens: 100 });
        Ok(())
    }
}
