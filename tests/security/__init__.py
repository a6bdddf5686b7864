"""What is promised, and where it is tested; `test_map.py` sees to it that each test is there.

The security defaults, as SECURITY.md lists them:

    1   loopback, or TLS and token     test_defaults.test_a_public_address_without_tls_is_refused_with_status_2
        --insecure warns               test_defaults.test_a_public_server_that_was_asked_for_twice_warns_at_each_start
    2   a token is made and told once  test_tokens.test_without_a_token_one_is_made_and_told_once_ready_to_paste
        from a closed file only        test_defaults.test_a_token_file_that_others_can_read_is_fatal
        never from the command line    test_tokens.test_a_token_cannot_be_given_as_an_argument
        constant time, on bytes        test_tokens.test_digests_are_compared_as_bytes_in_constant_time_all_of_them
        names, scopes, ends; 403       test_tokens.test_a_token_that_expires_is_good_until_then
        only /healthz is open          test_tokens.test_the_health_of_the_server_alone_is_open_and_says_nothing
    3   a dict lookup, no import       test_input.test_a_name_that_is_no_task_is_404_and_nothing_is_imported
    4   no pickle unless opted in      test_pickle.test_without_opt_in_it_is_415_and_the_bytes_never_reach_pickle
        verified before decoding       test_pickle.test_what_is_not_signed_well_is_403_and_never_unpickled
        decoded in a worker            test_pickle.test_a_good_call_runs_once_in_a_worker_process
        TLS or loopback                test_pickle.test_it_is_taken_over_tls_or_from_this_machine_only
        one function unpickles         test_pickle.test_one_function_unpickles_what_comes_from_a_network
        a key that is no token         test_pickle.test_a_key_that_is_a_token_is_refused
        the client opts in as well     test_pickle.test_an_answer_that_is_not_signed_is_not_unpickled
    5   numbers                        test_defaults.test_the_limits_are_those_that_are_promised
        pings, no compression          test_defaults.test_uvicorn_is_told_to_ping_and_to_trust_nobody
        depth 64                       test_defaults.test_json_may_be_64_deep
        deadlines                      server.test_deadlines.test_a_deadline_is_for_the_whole_and_not_for_each_read
        of messages                    server.test_deadlines.test_neither_fragments_nor_pings_prolong_the_time_of_a_message
        queue, 429                     test_defaults.test_the_queue_is_bounded
        options for all of them        server.test_deadlines.test_limits_can_be_given_on_the_command_line
        graceful end, bounded          server.test_end.test_a_task_on_a_thread_that_never_ends_is_named_and_left
        no Content-Encoding            test_browser.test_no_message_is_compressed_and_no_compressed_body_is_read
    6   Host                           test_browser.test_who_calls_the_server_by_another_name_is_refused
        Origin                         test_browser.test_a_page_of_another_origin_is_refused_though_it_has_a_token
        JSON content type              test_browser.test_the_post_of_a_form_is_415
        no CORS, cookies, banner       test_browser.test_no_answer_is_stored_or_shared_with_pages_or_tells_what_serves
        User-Agent                     test_browser.test_the_user_agent_makes_no_difference
    7   TLS is verified                remote.test_http.test_a_service_that_cannot_prove_who_it_is_gets_nothing
        from version 1.2 on            test_client.test_tls_is_at_least_of_version_1_2_and_checks_the_host
        mutual TLS                     remote.test_http.test_both_ends_prove_who_they_are
        no token in the clear          remote.test_http.test_a_token_does_not_travel_in_the_clear_unless_told_to
        no redirect                    remote.test_http.test_no_redirect_is_followed_and_no_token_goes_anywhere_else
        no proxy for this machine      test_client.test_a_service_on_this_machine_is_never_asked_by_a_proxy
        nor of the environment         test_client.test_a_proxy_of_the_environment_is_used_only_if_it_is_trusted
        no cookies                     test_client.test_a_service_sets_no_cookie
        netrc has no say               remote.test_http.test_the_token_is_sent_and_netrc_has_no_say
        the token is not shown         remote.test_http.test_a_bad_token_is_an_error_that_does_not_show_it
        answers are bounded            remote.test_http.test_each_bad_answer_has_a_typed_error
        frames are bounded             remote.test_websocket.test_an_endless_message_is_too_large
        so are pongs                   remote.test_line.test_a_server_that_pings_and_does_not_read_takes_no_memory
        total deadline                 remote.test_http.test_the_deadline_counts_for_the_whole_of_a_dripping_answer
    8   workers                        test_workers.test_workers_of_the_command_see_no_secret_and_dump_no_core
        mounted elsewhere              test_workers.test_so_do_those_of_an_application_that_was_given_its_tokens
    9   the outbox                     comes with it
    10  tracebacks, audit log          test_input.test_tracebacks_go_to_callers_with_debug_only
        the log never blocks           server.test_log.test_12_000_calls_are_answered_while_nobody_reads_stderr
    11  SECURITY.md, this folder       test_map.test_each_test_of_the_map_exists

The rows of hostile input:

    46  tokens                         test_tokens.test_no_good_token_is_401
        before a WebSocket is accepted test_tokens.test_a_websocket_without_a_good_token_is_refused_before_it_is_accepted
        never logged, rate-limited     server.test_log.test_a_flood_of_wrong_tokens_is_one_line_a_second_without_the_token
        nor when it is wrong           test_tokens.test_a_wrong_token_is_never_logged
    47  bodies                         server.test_deadlines.test_an_oversized_body_is_413_which_its_sender_can_read
        messages                       server.test_deadlines.test_an_oversized_message_is_1009_which_its_sender_can_read
        fragments                      server.test_deadlines.test_fragments_without_end_close_the_websocket_and_take_no_memory
        headers                        server.test_deadlines.test_the_head_of_a_request_is_bounded
        pings                          server.test_deadlines.test_pings_whose_pongs_nobody_reads_take_no_memory
        (34: slow loris)               server.test_deadlines.test_200_slow_callers_are_cut_off_and_keep_nobody_from_being_served
        (34: slow readers)             server.test_deadlines.test_who_does_not_read_his_answer_is_cut_off
    48  JSON over HTTP                 test_input.test_json_that_cannot_be_read_exactly_is_400
        over WebSocket                 test_input.test_a_frame_that_cannot_be_read_exactly_is_answered_and_the_connection_stays
        bodies                         test_input.test_a_body_that_is_no_call_is_400
        keys that stand twice          test_input.test_a_body_in_which_a_key_stands_twice_is_400
    49  pickles without opt-in         test_pickle.test_without_opt_in_it_is_415_and_the_bytes_never_reach_pickle
    50  tampered, replayed, old        test_pickle.test_what_is_not_signed_well_is_403_and_never_unpickled
    51  names                          test_input.test_a_name_that_is_no_task_is_404_and_nothing_is_imported
        paths                          test_input.test_a_path_that_is_none_is_404
    52  DNS rebinding                  test_browser.test_who_calls_the_server_by_another_name_is_refused
        cross-site, also WebSockets    test_browser.test_a_page_of_another_origin_is_refused_though_it_has_a_token
        forms                          test_browser.test_the_post_of_a_form_is_415
        without tokens                 test_browser.test_a_server_without_tokens_refuses_pages_all_the_same
        smuggling                      test_browser.test_a_request_of_two_readings_is_400_and_the_connection_ends
    53  arguments                      test_input.test_arguments_that_the_schema_does_not_allow_are_422_with_their_path
        all that the schema says       interop.test_schema.test_arguments_are_refused_exactly_if_the_schema_says_so
    54  errors with secrets            test_input.test_tracebacks_go_to_callers_with_debug_only
"""  # noqa: E501 - the name of a test is one word
