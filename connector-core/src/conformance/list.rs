//! The list of checks. The runner and [`conformance_tests!`](crate::conformance_tests) both use it.

/// Calls a macro with its arguments and every check: `chapter: name = "rule";`.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_checks {
    ([$($then:tt)*] $($with:tt)*) => {
        $($then)*! { $($with)*
            opening: both_urls_open_one_store = "the short URL and the `external://` URL of a connector open the same store";

            polling: calls_do_not_block_their_thread = "`exists`, `get` and `put` of a small chunk give their thread back while they wait";

            round_trip: bytes_come_back = "`get` after `put` gives the same bytes, under engine, layer and object keys, as far as the store takes them";
            round_trip: every_dtype_comes_back = "a chunk of every dtype that the store declares comes back as it was put";
            round_trip: every_format_comes_back = "a chunk of every memory format comes back as it was put";
            round_trip: every_rank_comes_back = "a chunk of one to four dimensions comes back as it was put";
            round_trip: several_groups_come_back = "a chunk of several groups of layers is refused or comes back as it was put";
            round_trip: every_size_comes_back = "chunks from 1 byte to 64 MiB come back as they were put, up to the declared limit";
            round_trip: puts_are_refused_or_come_back = "`put` refuses a chunk that `get` could not give back, and keeps the old value or none";
            round_trip: put_keeps_exactly_len_bytes = "`put` keeps exactly `len` bytes of a chunk or refuses it, also if its memory, its shape or the engine's metadata say another length";
            round_trip: exists_agrees_with_get = "`exists` is true for a key that `get` finds, and false for any other key";
            round_trip: misses_are_not_errors = "every call for a key that is not stored gives `None`, `false` or 0, never an error";

            overwriting: put_replaces = "`put` replaces the value, also by one of another length";
            overwriting: put_replaces_the_layout = "`put` replaces shape, dtype and format together with the bytes";
            overwriting: two_writers_leave_one_whole_value = "two concurrent puts of one key leave one of the two values, whole, unless the store declares `puts_in_parts`";
            overwriting: readers_see_whole_values = "a `get` during a `put` gives the old or the new value, whole, unless the store declares `puts_in_parts`";
            overwriting: hundreds_of_calls_at_once = "hundreds of concurrent calls for many keys give the same answers as calls one at a time";

            get_into: get_into_fills_exact_memory = "`get_into` fills memory of exactly the chunk's length";
            get_into: get_into_fits_longer_memory = "`get_into` gives longer memory the chunk's length and layout, and keeps its capacity, or misses it if the store declares `exact_length`";
            get_into: get_into_refuses_short_memory = "`get_into` of a chunk that does not fit fails with `SizeMismatch`, names both sizes and gives the memory back; it is a miss if the store declares `exact_length`";
            get_into: get_into_of_a_miss_leaves_the_memory = "`get_into` of a key that is not stored is `None` and gives the memory back";

            batches: batches_of_none_and_one = "a batch without keys gives no answers, and a batch of one key gives one";
            batches: batched_get_keeps_order_and_holes = "`batched_get` answers in the order of the keys, with `None` for a hole, also if a key occurs twice";
            batches: batched_exists_keeps_order_and_holes = "`batched_exists` answers in the order of the keys, also if a key occurs twice";
            batches: batched_contains_counts_the_leading_run = "`batched_contains` is the length of the leading run of keys that exist";
            batches: get_prefix_gives_the_leading_run = "`get_prefix` gives the chunks before the first key that is not stored";
            batches: batched_put_stores_each_chunk = "`batched_put` stores each chunk under its key";
            batches: batched_get_into_fills_each_memory = "`batched_get_into` reads each chunk into its memory, also if another one fails";
            batches: a_refused_item_fails_alone = "a key or a chunk that the store refuses fails alone, and not the others of its batch";
            batches: batched_remove_answers_for_each_key = "`batched_remove` says for each key whether it was stored";
            batches: thousands_of_keys_in_one_batch = "a batch may have thousands of keys";

            keys: odd_keys_are_kept_or_refused = "the store serves a key of odd characters as any other, or refuses it";
            keys: long_keys_are_kept_or_refused = "the store serves a key of 150 or 250 bytes like any other, if its declared limit allows the key, and never cuts a longer key";
            keys: keys_over_the_limit_are_refused = "the store refuses a key over the declared limit, and never cuts it short";
            keys: every_hash_names_its_own_chunk = "negative, long and zero-padded hashes name different chunks";
            keys: similar_keys_are_kept_apart = "keys that differ in one field, or of which one starts with the other, name different chunks";
            keys: escaped_keys_are_kept_apart = "a key that looks like another one escaped never gets the other's bytes";

            removal: remove_says_whether_it_was_there = "`remove` is true once and false afterwards, and the chunk is gone until the next put";
            removal: removal_leaves_the_others = "`remove` removes its key and no other";

            listing: list_gives_each_key_once = "`list` gives every key under the prefix once, as it was put";
            listing: list_keeps_to_the_prefix = "`list` gives no key whose text does not start with the prefix";
            listing: list_entries_gives_sizes = "`list_entries` gives the keys of `list`, and sizes and times that fit the chunks";
            listing: pages_are_in_order_and_complete = "`list_page` gives every key once, in order, in pages of at most the number that was asked for";
            listing: list_works_while_others_write = "`list` misses no key that stays while others come and go";

            cancellation: dropped_gets_do_no_harm = "a `get` or `exists` that is dropped at any poll does no harm to the next call";
            cancellation: dropped_puts_leave_whole_values = "a `put` that is dropped at any poll leaves the old value, the new one or none";
            cancellation: dropped_removes_leave_whole_values = "a `remove` that is dropped at any poll leaves the value or none";
            cancellation: dropped_get_into_gives_up_its_memory = "a `get_into` that is dropped at any poll leaves usable memory, or has taken it";
            cancellation: dropped_batches_do_no_harm = "a batch that is dropped at any poll leaves whole values, and does no harm to the next call";
            cancellation: dropped_lists_do_no_harm = "a listing that is dropped at any poll does no harm to the next one";

            memory: a_full_pool_is_an_error = "`get` without free memory fails with `PoolFull`, marked temporary, and works again when memory is free";
            memory: chunks_in_hand_do_not_change = "a chunk that `get` gave does not change when its key is replaced or removed";
            memory: put_does_not_keep_its_chunk = "`put` does not keep its chunk: the caller may write to the memory afterwards";
            memory: memory_comes_back = "hits, misses, refusals and errors give all memory of the pool back";

            capabilities: declared_operations_work = "every operation that the store declares works";
            capabilities: undeclared_operations_are_unsupported = "an operation that the store does not declare is `Unsupported`, and the error names it";
            capabilities: servers_are_named = "`servers` gives each server an address on one line, without a user or a password";
            capabilities: undeclared_dtypes_are_refused = "the store refuses a chunk of a dtype that it does not declare, and keeps the old value or none";
            capabilities: chunks_over_the_limit_are_refused = "the store refuses a chunk over the declared limit, and keeps the old value or none";

            closing: close_succeeds_once_for_all = "`close` of an idle store succeeds, and so does a second `close`";
            closing: close_finishes_what_was_put = "`close` waits for calls in flight, and other connectors of the store find their chunks";
            closing: close_ends_the_work_of_dropped_calls = "after `close` the work of dropped calls holds no memory";
            closing: a_dropped_close_can_be_called_again = "a `close` that is dropped at any poll can be called again";
            closing: closing_one_leaves_the_others_open = "closing one connector leaves others of the same store open, and the store can be opened again";

            errors: errors_say_where = "an error names the operation, the key and the connector";
        }
    };
}

/// Makes a `#[test]` for each check of the [conformance kit](crate::conformance), with the check's name.
///
/// The argument is a URL, a [`ContextBuilder`](crate::ContextBuilder) or a [`Kit`](crate::conformance::Kit). Each test
/// evaluates it anew. The tests bring their own runtime. A check that does not apply gives the reason on stderr
/// (`cargo test -- --show-output`). So does a check that needs a failed one, if the same command also runs the failed one's test.
///
/// ```
/// # #[expect(unused)]
/// mod conformance {
///     connector_core::conformance_tests!("acme://localhost:0");
/// }
/// ```
#[macro_export]
macro_rules! conformance_tests {
    ($kit:expr $(,)?) => {
        $crate::__conformance_checks!([$crate::__conformance_test]($kit));
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_test {
    (($kit:expr) $($chapter:ident: $name:ident = $rule:literal;)*) => {
        static BASICS: $crate::conformance::Basics = $crate::conformance::Basics::new();
        $(
            #[doc = $rule]
            #[test]
            fn $name() {
                $crate::conformance::Kit::from($kit).test(module_path!(), stringify!($name), &BASICS);
            }
        )*
    };
}
