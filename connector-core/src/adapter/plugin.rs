//! `plugin://name[.instance]`: a store that LMCache's configuration describes.

use super::{ConnectorAdapter, PLUGIN_KEY_PREFIX, PLUGIN_OWN_KEYS, create_entry};
use crate::connector::Connector;
use crate::context::ConnectorContext;
use crate::layer::is_layer_option;
use crate::registry::{self, SchemeOwner, did_you_mean};
use crate::url::RemoteUrl;
use crate::{Error, ErrorKind, Hint, Result, options};

/// LMCache's remote storage plugins. `extra_config` defines `plugin://name` in one of three ways:
///
/// - `remote_storage_plugin.<name>.url` is any URL that kvconn opens.
/// - `remote_storage_plugin.<name>.module_path` and `.class_name` name a registered connector. Its options are the
///   plugin's other keys.
/// - Without these keys, the part before the dot is a scheme that a connector claims. As in LMCache, `plugin://fs.primary`
///   is the `fs` connector with `remote_storage_plugin.fs.primary.base_path`.
pub(crate) struct PluginAdapter;

impl PluginAdapter {
    const SCHEME: &str = "plugin";

    /// The plugin's name in a `plugin://` URL. As in LMCache, all of the text behind `plugin://` is the name, not a host.
    pub(crate) fn name_of(url: &RemoteUrl) -> Option<&str> {
        let (scheme, rest) = url.expose().split_once("://")?;
        let name = rest.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
        (scheme == Self::SCHEME).then_some(name)
    }
}

#[diagnostic::do_not_recommend]
impl ConnectorAdapter for PluginAdapter {
    fn can_parse(&self, url: &RemoteUrl) -> bool {
        url.scheme() == Self::SCHEME
    }

    async fn create_connector(&self, ctx: ConnectorContext) -> Result<Connector> {
        let url = ctx.url().clone();
        let name = Self::name_of(&url).unwrap_or_default();
        // Another text may be a piece of a password, and errors show the name.
        let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if name.is_empty() || !is_name || url.may_hold_a_loose_secret() {
            return Err(Error::new(ErrorKind::InvalidUrl, format!("`{}` names no plugin", ctx.url()))
                .with_hint("write `plugin://name` or `plugin://name.instance`"));
        }
        let ctx = match ctx.plugin_name() {
            Some(_) => ctx,
            None => ctx.with_plugin_name(name),
        };
        let setting = |key: &str| -> Result<Option<String>> {
            let key = format!("{PLUGIN_KEY_PREFIX}{name}.{key}");
            match ctx.config().extra_config().get(&key) {
                None | Some(serde_json::Value::Null) => Ok(None),
                Some(serde_json::Value::String(text)) => Ok(Some(text.clone())),
                Some(_) => Err(Error::new(ErrorKind::InvalidOption, format!("extra_config key `{key}` is not text"))),
            }
        };
        if let Some(text) = setting("url")? {
            let key = format!("extra_config key `{PLUGIN_KEY_PREFIX}{name}.url`");
            let text = options::expand_url(text).map_err(|why| Error::new(ErrorKind::InvalidOption, why).at(&key))?;
            if url.query_pairs().any(|(option, _)| !is_layer_option(option)) {
                let message = format!("`{url}` has options that the store of plugin `{name}` does not read");
                return Err(Error::new(ErrorKind::InvalidOption, message).with_hint(format!("write them into {key}")));
            }
            let url = RemoteUrl::parse(&text).map_err(|e| e.at(&key))?;
            if url.scheme() == Self::SCHEME {
                return Err(Error::new(
                    ErrorKind::InvalidOption,
                    format!("plugin `{name}` has another plugin as its url"),
                ));
            }
            return ctx.redirect(url).await;
        }
        match (setting("module_path")?, setting("class_name")?) {
            (Some(module), Some(class)) => create_entry(registry::find(&module, &class)?, ctx).await,
            (None, None) => by_type(name, ctx).await,
            (module, _) => {
                let missing = if module.is_none() { "module_path" } else { "class_name" };
                Err(Error::new(
                    ErrorKind::InvalidOption,
                    format!("plugin `{name}` needs extra_config key `{PLUGIN_KEY_PREFIX}{name}.{missing}`"),
                ))
            }
        }
    }
}

/// `fs.primary` is the connector that claims the scheme `fs`.
async fn by_type(name: &str, ctx: ConnectorContext) -> Result<Connector> {
    let scheme = name.split('.').next().unwrap_or(name);
    if let Some(SchemeOwner::Connector(entry)) = registry::find_scheme(scheme)? {
        return create_entry(entry, ctx).await;
    }
    let configured = ctx.config().extra_config().keys().filter_map(|key| {
        let rest = key.strip_prefix(PLUGIN_KEY_PREFIX)?;
        rest.rsplit_once('.')
    });
    let (own, configured): (Vec<_>, Vec<_>) = configured.partition(|(plugin, _)| *plugin == name);
    for (_, key) in own.into_iter().filter(|(_, key)| !PLUGIN_OWN_KEYS.contains(key)) {
        let guess = did_you_mean(key, PLUGIN_OWN_KEYS.into_iter());
        if !guess.is_empty() {
            let guess = guess.replace("mean `", &format!("mean `{PLUGIN_KEY_PREFIX}{name}."));
            let message = format!("unknown extra_config key `{PLUGIN_KEY_PREFIX}{name}.{key}`{guess}");
            return Err(Error::new(ErrorKind::InvalidOption, message).with_hint(how_to_define(name)));
        }
    }
    let configured: Vec<&str> = configured.into_iter().map(|(plugin, _)| plugin).collect();
    let mut guess = did_you_mean(name, configured.iter().copied());
    if guess.is_empty() {
        guess = did_you_mean(scheme, registry::schemes());
    }
    Err(Error::new(ErrorKind::InvalidOption, format!("extra_config does not define plugin `{name}`{guess}"))
        .with_hint(how_to_define(name)))
}

fn how_to_define(plugin: &str) -> Hint {
    let in_config =
        format!("set `{PLUGIN_KEY_PREFIX}{plugin}.url`, or `.module_path` and `.class_name`, in extra_config");
    let python = format!("write the store's own URL; inside LMCache, {in_config}");
    Hint::each(in_config.clone(), python, in_config)
}
