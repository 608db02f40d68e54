//! The faults, and the check that must find each.

use super::Profile;

macro_rules! faults {
    ($($fault:ident, $check:ident, $profile:ident;)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Fault { $($fault),* }

        /// Each fault, the check that finds it, and the profile that shows it.
        pub(crate) const FAULTS: &[(Fault, &str, Profile)] =
            &[$((Fault::$fault, stringify!($check), Profile::$profile)),*];
    };
}

faults! {
    TakesTheModuleForItsPath, both_urls_open_one_store, Full;
    SleepsInGet, calls_do_not_block_their_thread, Full;

    FlipsABit, bytes_come_back, Full;
    LosesEveryOtherPut, bytes_come_back, Full;
    GivesAnotherKeysChunk, bytes_come_back, Full;
    PanicsInGet, bytes_come_back, Full;
    HangsInGet, bytes_come_back, Full;
    BlocksInGet, bytes_come_back, Full;
    HangsInPut, bytes_come_back, Full;
    Float64IsForgotten, every_dtype_comes_back, Full;
    HiddenStatesAreForgotten, every_format_comes_back, Full;
    RanksArePadded, every_rank_comes_back, Full;
    SecondGroupIsLost, several_groups_come_back, Full;
    FlipsABitOfLongChunks, every_size_comes_back, Full;
    CutsLongChunks, every_size_comes_back, Full;
    DimensionsOfZeroAreLost, puts_are_refused_or_come_back, Full;
    RefusesAfterStoring, puts_are_refused_or_come_back, Full;
    IgnoresLen, put_keeps_exactly_len_bytes, Full;
    HangsInExists, exists_agrees_with_get, Full;
    ExistsIsAlwaysTrue, exists_agrees_with_get, Full;
    MissesAreErrors, misses_are_not_errors, Full;

    KeepsTheFirst, put_replaces, Full;
    KeepsTheFirstLayout, put_replaces_the_layout, Full;
    StoresInHalves, two_writers_leave_one_whole_value, Full;
    ShowsHalves, readers_see_whole_values, Full;
    FewCallsAtOnce, hundreds_of_calls_at_once, Full;

    ForgetsTheLastByte, get_into_fills_exact_memory, Full;
    KeepsTheOldLength, get_into_fits_longer_memory, Full;
    FillsLongerMemory, get_into_fits_longer_memory, Exact;
    SaysOneSize, get_into_refuses_short_memory, Full;
    ShortMemoryIsAnError, get_into_refuses_short_memory, Exact;
    TakesMemoryForMisses, get_into_of_a_miss_leaves_the_memory, Full;

    PanicsOnEmptyBatches, batches_of_none_and_one, Full;
    BatchedGetTurnsAround, batched_get_keeps_order_and_holes, Full;
    BatchedExistsMovesHoles, batched_exists_keeps_order_and_holes, Full;
    CountsBehindTheHole, batched_contains_counts_the_leading_run, Full;
    PrefixSkipsTheHole, get_prefix_gives_the_leading_run, Full;
    BatchedPutMixesUp, batched_put_stores_each_chunk, Full;
    OneFailureStopsTheBatch, batched_get_into_fills_each_memory, Full;
    ARefusalStopsTheBatch, a_refused_item_fails_alone, Plain;
    BatchedRemoveSaysYes, batched_remove_answers_for_each_key, Full;
    AThousandKeysAreEnough, thousands_of_keys_in_one_batch, Full;

    OddKeysBecomeOthers, odd_keys_are_kept_or_refused, Full;
    TakesEngineKeys, odd_keys_are_kept_or_refused, Exact;
    CutsLongerNames, long_keys_are_kept_or_refused, Full;
    CutsNames, long_keys_are_kept_or_refused, Full;
    TakesLongKeys, keys_over_the_limit_are_refused, Plain;
    HashAsNumber, every_hash_names_its_own_chunk, Full;
    ForgetsTags, similar_keys_are_kept_apart, Full;
    SlashAsUnderscore, escaped_keys_are_kept_apart, Full;

    RemovesNothing, remove_says_whether_it_was_there, Full;
    RemovesWhatBeginsWithIt, removal_leaves_the_others, Full;

    HangsInList, list_gives_each_key_once, Full;
    ListNeverEnds, list_gives_each_key_once, Full;
    BlocksInList, list_gives_each_key_once, Full;
    ListsWhatContainsIt, list_keeps_to_the_prefix, Full;
    ListsOneKeyOfManyTwice, pages_are_in_order_and_complete, Full;
    ListsTwice, list_gives_each_key_once, Full;
    ListsInAnyCase, list_keeps_to_the_prefix, Full;
    SizesAreInKilobytes, list_entries_gives_sizes, Full;
    EntriesEndEarly, pages_are_in_order_and_complete, Full;
    ListLosesWhatMoves, list_works_while_others_write, Full;

    LongGetsLeaveItBusy, dropped_gets_do_no_harm, Full;
    GetsLeaveItBusy, dropped_gets_do_no_harm, Full;
    PutsLeaveItBusy, dropped_puts_leave_whole_values, Full;
    RemovesLeaveItBusy, dropped_removes_leave_whole_values, Full;
    DropsLeaveLessMemory, dropped_get_into_gives_up_its_memory, Full;
    BatchesLeaveItBusy, dropped_batches_do_no_harm, Full;
    ListsLeaveItBusy, dropped_lists_do_no_harm, Full;

    UnwrapsErrors, a_full_pool_is_an_error, Full;
    AFullPoolIsAMiss, a_full_pool_is_an_error, Full;
    WritesToWhatItGaveOut, chunks_in_hand_do_not_change, Full;
    KeepsItsChunk, put_does_not_keep_its_chunk, Full;
    LeaksWhatItReads, memory_comes_back, Full;

    DeclaresPingInVain, declared_operations_work, Plain;
    RemovesWithoutSaying, undeclared_operations_are_unsupported, Plain;
    NamesTheLogin, servers_are_named, Full;
    TakesEveryDtype, undeclared_dtypes_are_refused, Plain;
    TakesLongChunks, chunks_over_the_limit_are_refused, Plain;

    CloseFails, close_succeeds_once_for_all, Full;
    CloseHangs, close_succeeds_once_for_all, Full;
    DropPanics, close_succeeds_once_for_all, Full;
    DropBlocks, close_succeeds_once_for_all, Full;
    CloseLosesTheLastPut, close_finishes_what_was_put, Full;
    LongPutsWorkOnForEver, close_ends_the_work_of_dropped_calls, Full;
    WorksOnForEver, close_ends_the_work_of_dropped_calls, Full;
    LongCloseWorksOnce, a_dropped_close_can_be_called_again, Full;
    CloseWorksOnce, a_dropped_close_can_be_called_again, Full;
    ClosesAllAtOnce, closing_one_leaves_the_others_open, Full;

    NamesAnotherKey, errors_say_where, Full;
}

impl Fault {
    /// Whether a call of the store does not end.
    pub(crate) fn hangs(self) -> bool {
        [
            Self::HangsInGet,
            Self::BlocksInGet,
            Self::HangsInPut,
            Self::HangsInExists,
            Self::HangsInList,
            Self::BlocksInList,
            Self::DropBlocks,
            Self::CloseHangs,
        ]
        .contains(&self)
    }
}
