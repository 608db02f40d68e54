//! Any valid value is read back as it was written, and no text makes a parser panic.
#![forbid(unsafe_code)]

use connector_core::chunk::Groups;
use connector_core::key::ChunkHash;
use connector_core::{
    CacheEngineKey, CacheKey, ChunkHeader, ChunkLayout, ConnectorOptions, Dtype, Group, KeyKind, LMCacheEngineConfig,
    LMCacheMetadata, LayerCacheEngineKey, LayerGroup, LocalCpuBackend, MemoryFormat, ObjectKey, RemoteUrl, Shape,
    redact,
};
use connectors::fs::layout::{NAME_MAX, SLASH, file_name, key_of_file, object_key_of_file};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// A model's name: anything that does not start with a space.
fn model() -> impl Strategy<Value = String> {
    let real =
        vec!["facebook/opt-125m", "模型/测试", "a-SEP-b", "m", "ann@example.com/opt", "m@1@0@ff@half", "m@01000100"];
    let real = select(real).prop_map(str::to_owned);
    prop_oneof![real, ".{1,40}".prop_filter("starts with a space", |m| m.trim_start() == m)]
}

fn chunk_hash() -> impl Strategy<Value = ChunkHash> {
    prop_oneof![
        any::<u64>().prop_map(ChunkHash::from),
        any::<i64>().prop_map(ChunkHash::from),
        vec(any::<u8>(), 2..=32).prop_map(|bytes| ChunkHash::from_bytes(&bytes).unwrap()),
    ]
}

fn tags() -> impl Strategy<Value = Vec<(String, String)>> {
    let value = prop_oneof![".{0,12}", Just("ann@example.com".to_owned()), Just("x@1@0@ff@half".to_owned())];
    vec(("[^@%]{0,12}", value), 0..4)
}

prop_compose! {
    fn engine_key()(
        model in model(), world_size: u32, worker_id: u32, hash in chunk_hash(), dtype in select(&Dtype::ALL),
        tags in tags(),
    ) -> CacheEngineKey {
        let key = CacheEngineKey::new(model, world_size, worker_id, hash, dtype).unwrap();
        tags.into_iter().fold(key, |key, (name, value)| key.with_tag(name, value).unwrap())
    }
}

/// Parts of an object key, valid or not.
fn object_parts() -> impl Strategy<Value = (String, i64, u64, Vec<u8>, String)> {
    let rank = prop_oneof![any::<u32>().prop_map(i64::from), -0x0fff_ffff_i64..0, any::<i64>()];
    let group = prop_oneof![0..4_u64, any::<u64>()];
    (model(), rank, group, vec(any::<u8>(), 0..=33), "[^@/\\\\\u{0}]{0,129}")
}

/// A layout that a header can hold. Only the shape of a binary format may end with zeros.
fn layout() -> impl Strategy<Value = ChunkLayout> {
    let dtypes: Vec<_> = Dtype::ALL.into_iter().filter(|d| d.code().is_some()).map(Some).chain([None]).collect();
    let dim = prop_oneof![0..3_usize, 0..=i32::MAX as usize];
    let group = (vec(dim.clone(), 4), select(dtypes));
    (select(&MemoryFormat::ALL), vec(group, 1..=64), dim).prop_map(|(format, groups, len)| {
        let groups: Vec<_> = groups
            .into_iter()
            .map(|(dims, dtype)| {
                let shape = Shape::new(&dims).unwrap();
                Group { shape: if format.is_binary() { shape } else { shape.stripped() }, dtype }
            })
            .collect();
        ChunkLayout { format, groups: Groups::new(&groups).unwrap(), len }
    })
}

/// A model's metadata with at most 3 groups of small layers.
fn metadata() -> impl Strategy<Value = LMCacheMetadata> {
    let group = (1..5_usize, 1..65_usize, select(&Dtype::ALL));
    (1..=2_usize, 1..33_usize, vec(group, 1..4)).prop_map(|(kv_size, chunk_size, groups)| {
        let group = |(num_layers, hidden_dim, dtype)| LayerGroup { kv_size, num_layers, hidden_dim, dtype };
        let groups: Vec<_> = groups.into_iter().map(group).collect();
        LMCacheMetadata::new("m", 1, 0, chunk_size, &groups).unwrap()
    })
}

/// One option of each type that connectors have.
#[derive(Debug, Clone, PartialEq, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
struct SomeOptions {
    capacity: u64,
    offset: i64,
    share: f64,
    direct: bool,
    folder: String,
    hosts: Vec<String>,
}

impl ConnectorOptions for SomeOptions {
    const EXTRA_CONFIG_PREFIX: &'static str = "some_";
}

prop_compose! {
    /// `folder` is not empty, because `folder=` in a query counts as absent. The hosts have no comma and no space.
    fn some_options()(
        capacity: u64, offset: i64, share in -1e9..1e9_f64, direct: bool, folder in "[^\\p{Cc}]{1,20}",
        hosts in vec("[^,\\s\\p{Cc}]{1,8}", 1..4),
    ) -> SomeOptions {
        SomeOptions { capacity, offset, share, direct, folder, hosts }
    }
}

/// Reads the options from a URL's query and a configuration.
fn read_options(query: &str, config: LMCacheEngineConfig) -> connector_core::Result<SomeOptions> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
    let memory = LocalCpuBackend::with_capacity(4096);
    let builder = connector_core::builder(&format!("some://h:1?{query}")).handle(runtime.handle().clone());
    builder.local_cpu_backend(memory).config(config).build()?.options()
}

/// Writes every byte as `%xx`.
fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

/// Texts that are almost valid, so that they reach deeper into the parsers than random text.
fn near_key() -> impl Strategy<Value = String> {
    let field = prop_oneof![
        "[0-9a-fx-]{0,9}",
        "\\PC{0,6}",
        "[a-z]{0,9}[%/][a-z]{0,3}",
        select(&Dtype::ALL).prop_map(|d| d.key_name().to_owned())
    ];
    (vec(field, 0..8), select(vec!["", ".data", "-SEP-.data", "é.data"]))
        .prop_map(|(fields, end)| format!("{}{end}", fields.join("@")))
}

fn near_url() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        select(vec!["redis", "external", "://", "@", ":", ",", "/", "?", "&", "=", "#", "%", "%4", "[::1]", "[", "é"])
            .prop_map(str::to_owned),
        "[a-z0-9]{0,5}",
        "\\PC{0,3}",
    ];
    vec(part, 0..16).prop_map(|parts| parts.concat())
}

proptest! {
    // A failure prints its smallest input. Make a test of it instead of a file of seeds.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A text that is read back gives the same parts. A text with several readings is refused, never misread.
    #[test]
    fn engine_keys_are_read_back(key in engine_key(), layer_id: Option<u32>) {
        let any = match layer_id {
            None => CacheKey::from(key.clone()),
            Some(layer_id) => CacheKey::from(LayerCacheEngineKey { key: key.clone(), layer_id }),
        };
        let text = any.as_str();
        let read = CacheKey::parse(text, KeyKind::Engine).unwrap();
        prop_assert_eq!((read.as_str(), read.kind()), (text, KeyKind::Engine));
        let parts = match layer_id {
            None => text.parse::<CacheEngineKey>(),
            Some(layer_id) => text.parse::<LayerCacheEngineKey>().inspect(|key| assert_eq!(key.layer_id, layer_id)).map(|key| key.key),
        };
        match parts {
            Ok(parts) => {
                prop_assert_eq!(read.model_name(), Some(key.model_name()));
                prop_assert_eq!(read.chunk_hash_hex(), Some(key.chunk_hash().as_str()));
                prop_assert_eq!(read.layer_id(), layer_id);
                prop_assert_eq!(parts, key);
            }
            Err(e) => {
                prop_assert!(e.to_string().contains("several readings"), "{}", e);
                prop_assert_eq!((read.model_name(), read.chunk_hash_hex(), read.layer_id()), (None, None, None));
            }
        }
    }

    /// Every key has a text that can be read back. Otherwise no key would find its chunk again.
    #[test]
    fn object_keys_are_read_back((model, rank, group, hash, salt) in object_parts()) {
        if let Ok(key) = ObjectKey::new(model, rank, group, hash, salt) {
            let any = CacheKey::from(key.clone());
            prop_assert_eq!(any.as_str(), key.to_string());
            let read = CacheKey::parse(any.as_str(), KeyKind::Object);
            prop_assert!(read.is_ok(), "{:?} has the text `{}`: {:?}", key, any, read);
            prop_assert_eq!(any.as_str().parse::<CacheKey>().unwrap().kind(), KeyKind::Object);
            prop_assert_eq!(any.as_str().parse().ok(), Some(key));
        }
    }

    /// Two keys share a name only because LMCache's layout writes `/` as `-SEP-`.
    #[test]
    fn names_of_files_are_read_back(key in prop_oneof![
        engine_key().prop_map(CacheKey::from),
        (engine_key(), any::<u32>()).prop_map(|(key, layer_id)| CacheKey::from(LayerCacheEngineKey { key, layer_id })),
        (model(), any::<u32>(), 0..500_u64, vec(any::<u8>(), 1..=32), "[^@/\\\\\u{0}]{0,20}").prop_filter_map(
            "no key",
            |(model, rank, group, hash, salt)| {
                ObjectKey::new(model, rank.into(), group, hash, salt).ok().map(CacheKey::from)
            },
        ),
    ]) {
        let text = key.as_str();
        match file_name(&key) {
            Ok(name) => {
                prop_assert!(name.len() <= NAME_MAX && !name.contains(['/', '\0']), "{}", name);
                let back = key_of_file(&name);
                prop_assert!(back.is_some(), "`{}` is not listed", name);
                let back = back.unwrap();
                // `-SEP-SEP-` can be split in two ways, so the check leaves out keys with a part of `-SEP-`.
                if text.contains("-SEP") || text.contains("SEP-") {
                    prop_assert_eq!(file_name(&back).unwrap(), name);
                } else {
                    prop_assert_eq!(back, key);
                }
            }
            Err(_) => {
                let bytes = text.replace('/', SLASH).len() + ".data".len();
                prop_assert!(bytes + 2 > NAME_MAX || text.contains('\0'), "`{}` is refused", text);
            }
        }
    }

    #[test]
    fn headers_are_read_back(layout in layout()) {
        let header = ChunkHeader::new(&layout).unwrap();
        prop_assert_eq!(header.as_bytes().len(), ChunkHeader::len_for(layout.groups.len()));
        prop_assert_eq!(ChunkHeader::groups_for(header.as_bytes().len()), Some(layout.groups.len()));
        prop_assert_eq!(ChunkHeader::read(header.as_bytes()).unwrap(), layout);
    }

    /// A header that was read can be written again, perhaps to other bytes, because dtype 1 is an old number for 2.
    #[test]
    fn headers_of_any_bytes_are_refused_or_read(bytes in vec(any::<u8>(), 0..200), words in vec(0..9_i32, 7..=22)) {
        let words: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        for bytes in [bytes, words] {
            if let Ok(layout) = ChunkHeader::read(&bytes) {
                let again = ChunkHeader::new(&layout).unwrap();
                prop_assert_eq!(ChunkHeader::read(again.as_bytes()).unwrap(), layout);
            }
        }
    }

    #[test]
    fn shapes_dtypes_and_formats_are_read_back_from_their_text(
        dims in vec(any::<usize>(), 1..=4), dtype in select(&Dtype::ALL), format in select(&MemoryFormat::ALL),
    ) {
        let shape = Shape::new(&dims).unwrap();
        prop_assert_eq!(shape.to_string().parse::<Shape>().unwrap(), shape);
        prop_assert_eq!(dtype.to_string().parse::<Dtype>().unwrap(), dtype);
        prop_assert_eq!(dtype.key_name().parse::<Dtype>().unwrap(), dtype);
        prop_assert_eq!(format.to_string().parse::<MemoryFormat>().unwrap(), format);
    }

    /// A raw value has no header, so its number of tokens must follow from its length alone.
    #[test]
    fn layouts_of_raw_values_follow_from_their_length(metadata in metadata(), tokens in 1..33_usize, more in 1..99_usize) {
        let raw = metadata.chunk_layout();
        let tokens = tokens.min(raw.chunk_size);
        let layout = raw.for_tokens(tokens).unwrap();
        prop_assert_eq!(layout.groups.iter().map(|g| g.shape.iter().product::<usize>() * g.dtype.unwrap().size()).sum::<usize>(), layout.len);
        prop_assert!(layout.groups.iter().all(|g| g.shape[2] == tokens), "{}", layout);
        prop_assert_eq!(&raw.for_bytes(layout.len).unwrap(), &layout);
        prop_assert_eq!(layout == raw.full, tokens == raw.chunk_size);
        if more % raw.token_bytes != 0 || tokens + more / raw.token_bytes > raw.chunk_size {
            prop_assert!(raw.for_bytes(layout.len + more).is_err());
        }
    }

    #[test]
    fn options_are_read_back_from_a_query_and_from_the_configuration(want in some_options()) {
        // An unescaped `${` would name an environment variable.
        let escape = |text: &String| text.replace("${", "$${");
        let escaped = SomeOptions { folder: escape(&want.folder), hosts: want.hosts.iter().map(escape).collect(), ..want.clone() };
        let values = serde_json::to_value(&escaped).unwrap();
        let values = values.as_object().unwrap();
        let (mut pairs, mut typed, mut texts) = (Vec::new(), LMCacheEngineConfig::default(), LMCacheEngineConfig::default());
        for (name, value) in values {
            let text = match value {
                serde_json::Value::String(text) => text.clone(),
                serde_json::Value::Array(_) => escaped.hosts.join(","),
                other => other.to_string(),
            };
            pairs.push(format!("{name}={}", percent(&text)));
            typed = typed.with_extra_config(format!("some_{name}"), value.clone());
            texts = texts.with_extra_config(format!("some_{name}"), text);
        }
        for (query, config) in [
            (pairs.join("&"), LMCacheEngineConfig::default()),
            (String::new(), typed),
            (String::new(), texts),
        ] {
            prop_assert_eq!(&read_options(&query, config).unwrap(), &want);
        }
    }

    #[test]
    fn urls_are_read_back_as_their_parts(
        scheme in "[a-z][a-z0-9+.-]{0,6}", user in "[a-z0-9%._-]{1,8}", password in "[a-z0-9%._!:-]{1,8}",
        hosts in vec(("[a-z0-9]{0,6}[a-z]", any::<u16>()), 1..4), path in "(/[a-zA-Z0-9 %:._-]{0,6}){0,3}",
        query in vec(("[a-z ]{1,6}", "[^\\p{Cc}]{1,6}"), 0..4),
    ) {
        let authority: Vec<_> = hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect();
        let pairs: Vec<_> = query.iter().map(|(name, value)| format!("{}={}", percent(name), percent(value))).collect();
        let end = if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) };
        let text = format!("{scheme}://{user}:{password}@{}{}{end}", authority.join(","), path.trim_end());
        let url = RemoteUrl::parse(&text).unwrap();
        prop_assert_eq!((url.scheme(), url.path(), url.expose()), (&*scheme, path.trim_end(), &*text));
        prop_assert_eq!((url.username(), url.password()), (Some(&*user), Some(&*password)));
        let read: Vec<_> = url.hosts().iter().map(|h| (h.host.clone(), h.port.unwrap())).collect();
        prop_assert_eq!(read, hosts);
        let read: Vec<_> = url.query_pairs().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        prop_assert_eq!(read, query);
    }

    #[test]
    fn no_text_makes_a_parser_panic(text in prop_oneof![any::<String>(), near_key(), near_url()]) {
        for kind in [KeyKind::Engine, KeyKind::Object] {
            if let Ok(key) = CacheKey::parse(&text, kind) {
                prop_assert_eq!((key.as_str(), key.kind()), (&*text, kind));
                prop_assert!(key.hash_modulo(7) < 7);
            }
        }
        if let Ok(key) = text.parse::<CacheKey>() {
            prop_assert_eq!(key.as_str(), text.clone());
        }
        if let Some(key) = key_of_file(&text) {
            prop_assert_eq!(file_name(&key).unwrap(), text.clone(), "the key of a listed file has the file's name");
        }
        let _ = object_key_of_file(&text);
        if let Ok(url) = RemoteUrl::parse(&text) {
            prop_assert_eq!(url.expose(), text.clone());
            prop_assert_eq!(url.to_string(), redact(&text));
            prop_assert_eq!(redact(&url.to_string()), url.to_string(), "a second redaction changes nothing");
            let _ = url.require_host_port();
        }
    }

    /// The password may hold any character, escaped or not.
    #[test]
    fn no_password_is_shown(
        scheme in select(vec!["redis", "memory", "tiered", "cassandra", "external"]), slashes in "(://|:|:/|//|)",
        user in "[^hunter2]{0,8}", before in "[^@]{0,8}", after in "[^@]{0,8}", rest in "[^@]{0,12}",
    ) {
        let text = format!("{scheme}{slashes}{user}:{before}hunter2{after}@{rest}");
        let shown = match RemoteUrl::parse(&text) {
            Ok(url) => format!("{url} {url:?} {:?}", url.require_host_port()),
            Err(e) => format!("{e} {e:?}"),
        };
        prop_assert!(!shown.contains("hunter2"), "{} is shown as {}", text, shown);
        prop_assert!(!redact(&text).contains("hunter2"));
    }

    #[test]
    fn no_secret_parameter_is_shown(
        name in select(vec!["password", "username", "pas%73word", "token", "x"]),
        before in "[^#&]{0,8}", after in "[^#]{0,8}", others in "[a-z]{0,4}=?[a-z0-9:/]{0,6}",
    ) {
        let text = format!("redis://h:1/0?{others}&{name}={before}hunter2{after}&{others}");
        let shown = match RemoteUrl::parse(&text) {
            Ok(url) => format!("{url} {url:?}"),
            Err(e) => format!("{e} {e:?}"),
        };
        prop_assert!(!shown.contains("hunter2"), "{} is shown as {}", text, shown);
    }
}
