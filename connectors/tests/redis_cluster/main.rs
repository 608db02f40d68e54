//! The stores `redis` and `resp` on real clusters: masters die, stop and hand over, slots move, and nodes announce
//! odd addresses. Each call ends in the right chunk, a miss or an error, in time.
//!
//! A test knows only the kind of a store. `stores!` makes a test for each store.
#![forbid(unsafe_code)]

#[path = "../checked/mod.rs"]
mod checked;
mod failover;
mod moving;
mod nodes;
#[path = "../pooled/mod.rs"]
mod pooled;
mod redirected;
mod startup;
mod store;

/// A module of tests for one store.
macro_rules! stores {
    ($module:ident, $kind:expr) => {
        mod $module {
            stores!(@tests $kind;
                failover::a_killed_master_costs_only_its_chunks_until_its_replica_takes_over,
                failover::a_stopped_master_costs_one_timeout_and_comes_back,
                failover::a_planned_failover_fails_no_call,
                failover::a_cluster_that_is_down_fails_in_time_and_comes_back,
                failover::reads_go_to_replicas_and_else_to_the_master,
                moving::chunks_of_a_slot_that_moves_are_found_on_both_sides,
                moving::slots_that_move_under_load_fail_no_call,
                moving::a_moved_slot_costs_one_redirection,
                moving::the_neighbours_of_a_moved_chunk_are_their_own,
                nodes::the_contract_holds_for_one_writer_of_a_key,
                nodes::each_name_goes_to_its_node_at_once,
                nodes::nodes_are_reached_by_the_addresses_that_they_announce,
                nodes::nodes_behind_a_nat_are_reached_by_a_map,
                nodes::nodes_over_tls_have_the_names_that_they_announce,
                nodes::users_and_passwords_are_those_of_every_node,
                redirected::a_redirection_that_leads_nowhere_is_a_temporary_error,
                startup::one_startup_node_of_several_is_enough,
                startup::a_server_without_a_cluster_is_an_error_that_says_so,
                startup::a_single_servers_url_is_an_error_on_a_cluster,
                startup::a_lazy_store_opens_without_a_cluster_and_finds_it_later,
            );
        }
    };
    (@tests $kind:expr; $($file:ident::$test:ident),+ $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            crate::checked::within(crate::$file::$test($kind)).await;
        }
    )+};
}

stores!(
    resp,
    crate::store::Kind {
        scheme: "resp",
        options: "?cluster=true",
        single: "resp",
        value_key: |key| key.as_str().to_owned(),
    }
);
stores!(
    redis,
    crate::store::Kind {
        scheme: "redis-cluster",
        options: "?orphan_grace_sec=1",
        single: "redis",
        value_key: |key| format!("{key}kv_bytes"),
    }
);
