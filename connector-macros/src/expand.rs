//! The item as it was, and the registry's entry behind it.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{Error, LitStr, parse_quote};

use crate::args::{self, Args, Attribute};
use crate::check::{self, Subject};
use crate::once;

pub(crate) fn external_connector(args: TokenStream, item: TokenStream) -> TokenStream {
    expand(Attribute::Connector, args, item, |args, subject| {
        let Some(module) = args.module else { return Err(Vec::new()) };
        let name = args.name.unwrap_or_else(|| LitStr::new(&subject.ident.to_string(), subject.ident.span()));
        let mut errors = Vec::new();
        claim(&mut errors, name.span(), format!("connector `{}/{}`", module.value(), name.value()));
        for scheme in &args.schemes {
            claim(&mut errors, scheme.span(), format!("scheme `{}`", scheme.value()));
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let Subject { ident, doc } = subject;
        let (schemes, urls) = (args.schemes, args.urls);
        let core = args.core.unwrap_or_else(|| parse_quote!(::connector_core));
        let origin = origin(&core);
        let options = args.options.map(|ty| {
            let span = syn::spanned::Spanned::span(&ty);
            quote_spanned!(span=> .with_options::<#ty>())
        });
        let urls = (!urls.is_empty()).then(|| quote!(.with_urls(&[#(#urls),*])));
        // Spanned at the struct's name, where the compiler then reports a missing `impl`.
        let new = quote_spanned!(ident.span()=> #core::registry::ConnectorEntry::new::<#ident>);
        Ok(quote! {
            #[doc(hidden)]
            const _: () = {
                #core::__private::element! {
                    CONNECTORS: ConnectorEntry =
                        #new(#module, #name, &[#(#schemes),*], #doc, #origin) #urls #options
                }
            };
        })
    })
}

pub(crate) fn connector_adapter(args: TokenStream, item: TokenStream) -> TokenStream {
    expand(Attribute::Adapter, args, item, |args, subject| {
        let mut errors = Vec::new();
        let Some(scheme) = args.schemes.into_iter().next() else { return Err(errors) };
        claim(&mut errors, scheme.span(), format!("scheme `{}`", scheme.value()));
        if !errors.is_empty() {
            return Err(errors);
        }
        let Subject { ident, doc } = subject;
        let core = args.core.unwrap_or_else(|| parse_quote!(::connector_core));
        let origin = origin(&core);
        let new = quote_spanned!(ident.span()=> #core::registry::AdapterEntry::new::<#ident>);
        Ok(quote! {
            #[doc(hidden)]
            const _: () = {
                #core::__private::element! {
                    ADAPTERS: AdapterEntry = #new(#scheme, #doc, #origin)
                }
            };
        })
    })
}

/// The item is always emitted, because a lost struct turns one mistake into twenty errors.
fn expand(
    attribute: Attribute,
    args: TokenStream,
    item: TokenStream,
    entry: impl FnOnce(Args, Subject) -> Result<TokenStream, Vec<Error>>,
) -> TokenStream {
    let (args, mut errors) = args::parse(attribute, args);
    let entry = match check::subject(attribute, &item) {
        Ok(subject) if errors.is_empty() => entry(args, subject).unwrap_or_else(|more| {
            errors.extend(more);
            TokenStream::new()
        }),
        Ok(_) => TokenStream::new(),
        Err(e) => {
            errors.push(e);
            TokenStream::new()
        }
    };
    let errors = errors.iter().map(Error::to_compile_error);
    quote!(#item #entry #(#errors)*)
}

fn claim(errors: &mut Vec<Error>, span: Span, what: String) {
    let message = format!("{what} is registered twice in this crate");
    if let Some(first) = once::first_place_of(what) {
        errors.push(Error::new(span, format!("{message}: first at {first}")));
    }
}

/// The place of the attribute. `option_env!`, because not every build tool sets cargo's variables.
fn origin(core: &syn::Path) -> TokenStream {
    quote! {
        #core::__private::Origin::new(
            ::core::option_env!("CARGO_PKG_NAME"),
            ::core::option_env!("CARGO_PKG_VERSION"),
            ::core::file!(),
            ::core::line!(),
            ::core::column!(),
        )
    }
}
