//! Entries of metadata on an object, which come with its GET.

use std::collections::HashMap;

use opendal::Metadata;
use opendal::options::WriteOptions;

use super::errors::Service;

/// Where an object keeps its entries.
///
/// OpenDAL reads the user metadata of a GET on S3 only: Google's JSON API sends none, and OpenDAL drops Azure's. Both send
/// the content type, also for each object of a listing, so there the entries are its parameters.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Entries {
    /// In the user metadata: `x-amz-meta-name: value`.
    UserMetadata,
    /// In the content type: `application/octet-stream; name=value`.
    ContentType,
}

impl Entries {
    /// The place of the objects of a service.
    pub(super) fn of(service: Service) -> Self {
        match service {
            Service::S3 => Self::UserMetadata,
            Service::Gcs | Service::Azure => Self::ContentType,
        }
    }

    /// Whether the metadata of a listed object holds its entries.
    pub(super) fn are_in(self, metadata: &Metadata) -> bool {
        matches!(self, Self::ContentType) && metadata.content_type().is_some_and(|text| !text.is_empty())
    }

    /// Adds entries to a write. Names have letters and digits only. Values are percent-encoded, so that they are tokens of
    /// a content type.
    pub(super) fn write(self, entries: Vec<(&'static str, String)>, options: &mut WriteOptions) {
        if entries.is_empty() {
            return;
        }
        match self {
            Self::UserMetadata => {
                let entries = entries.into_iter().map(|(name, value)| (name.to_owned(), value));
                options.user_metadata = Some(HashMap::from_iter(entries));
            }
            Self::ContentType => {
                let parameters = entries.iter().map(|(name, value)| format!("; {name}={value}"));
                options.content_type = Some("application/octet-stream".to_owned() + &parameters.collect::<String>());
            }
        }
    }
}

/// The entry of this name, wherever the object keeps it.
pub(super) fn entry<'a>(metadata: &'a Metadata, name: &str) -> Option<&'a str> {
    let user = metadata.user_metadata().and_then(|entries| entries.get(name));
    let in_type = || {
        let mut parameters = metadata.content_type()?.split(';').skip(1).filter_map(|part| part.trim().split_once('='));
        parameters.find(|(parameter, _)| *parameter == name).map(|(_, value)| value)
    };
    user.or_else(in_type)
}

#[cfg(test)]
mod tests {
    use opendal::MetadataBuilder;

    use super::*;

    fn stored(entries: Entries) -> Metadata {
        let mut options = WriteOptions::default();
        entries.write(vec![("kvconnkey", "a%2Fb%40c".to_owned()), ("other", "1".to_owned())], &mut options);
        let mut metadata = MetadataBuilder::file(1);
        if let Some(user) = options.user_metadata {
            metadata.user_metadata(user);
        }
        if let Some(content_type) = options.content_type {
            metadata.content_type(content_type);
        }
        metadata.build()
    }

    #[test]
    fn both_places_give_back_what_a_write_put_there() {
        for place in [Entries::UserMetadata, Entries::ContentType] {
            let metadata = stored(place);
            assert_eq!(entry(&metadata, "kvconnkey"), Some("a%2Fb%40c"), "{place:?}");
            assert_eq!(entry(&metadata, "other"), Some("1"), "{place:?}");
            assert_eq!(entry(&metadata, "kvconn"), None, "{place:?}");
        }
    }

    #[test]
    fn a_write_without_entries_sets_nothing() {
        let mut options = WriteOptions::default();
        Entries::ContentType.write(Vec::new(), &mut options);
        assert!(options.content_type.is_none() && options.user_metadata.is_none());
    }

    #[test]
    fn an_object_of_another_program_has_no_entry() {
        let mut metadata = MetadataBuilder::file(1);
        metadata.content_type("application/octet-stream; charset=binary");
        assert_eq!(entry(&metadata.build(), "kvconnkey"), None);
    }
}
