//! Faults of a real redis server and of the network before it: they die, stop, cut, split, corrupt, refuse and forget. Each
//! fault ends in an error or a miss, never in a wrong chunk, a hang or a leak. The next call succeeds.
//!
//! A fault knows only the URL of a store. `faults!` makes a test of each fault for each store.
#![forbid(unsafe_code)]

mod access;
#[path = "../checked/mod.rs"]
mod checked;
mod dropped;
mod limits;
mod memory;
mod network;
mod odd;
#[path = "../pooled/mod.rs"]
mod pooled;
mod server;
mod stalled;
mod store;

/// A module of tests for one store.
macro_rules! faults {
    ($module:ident, $kind:expr) => {
        mod $module {
            faults!(@tests $kind;
                access::a_user_with_few_rights_is_denied_only_the_rest,
                access::a_wrong_password_is_denied_and_not_shown,
                access::a_server_at_its_limit_of_clients_is_unavailable_until_it_has_room,
                access::calls_use_open_connections_when_new_ones_are_refused,
                access::a_rotated_password_is_read_from_its_file_again,
                access::a_user_without_a_password_logs_in_or_is_refused,
                access::a_put_follows_the_master,
                dropped::a_get_that_is_dropped_anywhere_leaves_the_next_call_right,
                dropped::calls_that_are_not_polled_do_not_stop_others,
                dropped::a_put_that_is_dropped_anywhere_leaves_a_whole_value,
                dropped::a_batch_that_is_dropped_anywhere_leaves_the_next_call_right,
                limits::a_chunk_over_the_servers_largest_value_fails_alone,
                limits::a_request_over_the_servers_buffer_fails_alone,
                limits::an_answer_over_the_servers_buffer_fails_alone,
                limits::a_server_that_evicts_clients_costs_no_chunk_that_it_can_take,
                memory::an_announced_length_takes_no_memory_before_a_byte_comes,
                memory::a_read_that_stops_half_way_keeps_no_memory,
                memory::close_returns_the_pools_memory,
                memory::calls_that_wait_for_memory_hold_no_connection,
                memory::batches_that_each_fit_come_back_whole,
                memory::memory_of_an_allocator_that_waits_has_the_chunks_own_layout,
                memory::batches_never_both_lose_memory_that_one_of_them_needs,
                memory::a_batch_larger_than_the_pool_gets_the_leading_chunks_at_once,
                memory::a_full_pool_does_not_hide_a_miss,
                memory::a_short_chunk_takes_little_of_the_memory_reserved_for_it,
                odd::messages_and_attributes_inside_an_answer_are_dropped,
                odd::a_hostile_answer_is_corrupt_at_once,
                odd::exists_does_not_take_an_odd_answer_for_a_miss,
                network::a_reply_that_is_cut_is_an_error_and_the_next_call_is_right,
                network::a_request_that_is_cut_stores_the_old_chunk_or_none,
                network::a_stalled_reply_is_a_timeout,
                network::bytes_that_come_one_by_one_are_the_same_chunks,
                network::bytes_that_come_late_are_the_same_chunks,
                network::a_reply_that_trickles_is_read_and_one_that_stops_is_a_timeout,
                network::a_byte_now_and_then_is_a_timeout,
                network::messages_and_no_reply_are_an_error,
                network::a_corrupt_length_is_an_error_and_never_a_chunk,
                network::corrupt_lengths_in_a_batch_are_errors_and_the_next_batch_is_right,
                network::one_corrupt_length_in_a_batch_costs_one_chunk,
                network::a_remove_whose_answer_is_lost_is_not_repeated,
                network::a_stopped_server_costs_few_connections,
                network::a_server_that_refuses_costs_few_connections,
                network::calls_that_connect_again_do_not_wait_for_each_other,
                stalled::a_stalled_connection_delays_only_its_own_chunks_of_a_batch,
                stalled::a_stalled_connection_fails_only_its_own_call,
                stalled::a_batch_does_not_wait_for_a_connection_that_it_does_not_need,
                stalled::a_call_whose_greeting_stalls_takes_a_connection_that_comes_back,
                stalled::batches_of_a_fresh_store_open_each_connection_once,
                stalled::a_dropped_call_leaves_its_connection_to_the_next,
                stalled::close_ends_a_connection_that_is_being_opened,
                server::a_server_that_is_killed_under_load_is_an_error_until_it_is_back,
                server::a_server_that_restarted_between_calls_is_not_noticed,
                server::a_stopped_server_is_a_timeout_until_it_continues,
                server::a_value_over_the_limit_is_an_error_and_the_next_call_is_right,
                server::a_value_of_another_type_is_an_error_and_the_next_call_is_right,
                server::a_full_server_is_store_full_and_still_answers,
                server::eviction_under_writers_never_tears_a_chunk,
            );
        }
    };
    (@tests $kind:expr; $($file:ident::$fault:ident),+ $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $fault() {
            crate::store::within(crate::$file::$fault($kind)).await;
        }
    )+};
}

faults!(resp, crate::store::Kind { scheme: "resp", value_key: |key| key.as_str().to_owned() });
faults!(redis, crate::store::Kind { scheme: "redis", value_key: |key| format!("{key}kv_bytes") });
