"""What happens for each fault of the network, and where that is tested; `test_map.py` reads this.

The numbers are those of the list of faults that the project was built to; the rest of it is about
processes (`tests/faults`), about hostile input (`tests/security`), and about streams
(`tests/streams`).

    28  killed in the midst of a call  test_served.test_a_server_that_is_killed_in_the_middle_of_a_call
        and it comes back              test_network.test_an_idempotent_call_goes_on_when_its_server_was_killed_and_comes_back
    29  killed in the midst of a stream  streams.test_services.test_the_stream_of_an_idempotent_task_goes_on
    30  told to end                    test_served.test_a_server_that_is_told_to_end_finishes_what_runs
        new calls are declined         server.test_drain.test_a_running_call_ends_well_while_new_ones_are_declined
        bounded                        server.test_end.test_a_task_on_a_thread_that_never_ends_is_named_and_left
    31  half-open, WebSocket           test_network.test_the_websocket_of_a_dead_wire_is_lost_and_what_it_delivers_later_is_nobodys
        half-open, HTTP                test_network.test_a_dead_wire_ends_a_request_at_its_deadline_and_its_answer_is_nobodys
        no pong                        test_websocket.test_a_server_that_answers_no_ping_is_lost
        by the kernel's firewall       test_netns.test_what_a_proxy_cannot_do
    32  reset after each byte          test_network.test_a_reset_anywhere_costs_the_call_that_it_hits_and_tells_whether_it_may_have_run
        of the answer                  test_cuts.test_a_reset_after_any_byte_of_the_answer_is_a_lost_connection
    33  drip, HTTP                     test_http.test_the_deadline_counts_for_the_whole_of_a_dripping_answer
        drip, WebSocket                test_network.test_the_deadline_counts_for_the_whole_of_a_dripping_frame_and_the_executor_ends
        drip, handshake                test_network.test_a_dripping_handshake_ends_with_the_time_for_a_connection
        a question that is not heard   test_network.test_the_question_for_its_tasks_has_no_longer_than_the_call
        nobody reads                   test_network.test_who_does_not_read_the_call_has_until_its_deadline
    34  slow loris                     server.test_deadlines.test_200_slow_callers_are_cut_off_and_keep_nobody_from_being_served
    35  answers that are none          test_http.test_each_bad_answer_has_a_typed_error
        what is told of them           test_http.test_an_answer_that_is_no_json_is_told_by_its_status_type_and_beginning
        WebSocket                      test_websocket.test_a_bad_handshake_has_a_typed_error
        a frame that is no JSON        test_websocket.test_a_frame_that_is_no_json_ends_the_connection_with_a_typed_error
    36  statuses, typed                test_http.test_each_bad_answer_has_a_typed_error
        which are asked again          test_http.test_only_a_busy_service_is_asked_again_or_one_that_is_not_there
        Retry-After, capped            test_http.test_a_busy_service_is_asked_again_after_a_capped_while
    37  redirects                      test_http.test_no_redirect_is_followed_and_no_token_goes_anywhere_else
    38  bombs, to the client           test_http.test_a_bomb_is_not_unpacked_further_than_to_the_limit
        to the server                  security.test_browser.test_no_message_is_compressed_and_no_compressed_body_is_read
    39  close codes                    test_websocket.test_each_close_code_has_its_error
        sent again                     test_websocket.test_an_idempotent_call_is_sent_again_on_a_new_connection
    40  a storm of clients             test_network.test_200_clients_come_back_to_a_server_each_by_one_dial_at_a_time
        pauses that grow               test_network.test_dials_become_rarer
    41  ids                            test_websocket.test_answers_may_come_in_any_order_twice_late_and_to_nobody
        in all orders                  protocol.test_machines.TestFaulty
        while many calls wait          test_line.test_a_call_that_comes_while_the_queue_is_looked_through_is_not_forgotten
    42  nobody there                   test_network.test_nobody_there_is_unavailable_in_time_and_a_local_tier_takes_over
    43  TLS, the service's side        test_http.test_a_service_that_cannot_prove_who_it_is_gets_nothing
        the caller's                   test_tls.test_a_caller_that_cannot_prove_who_he_is_is_not_served
        both                           test_tls.test_both_ends_prove_who_they_are
        no TLS at all                  test_tls.test_a_server_without_tls_gets_nothing
    44  clocks                         test_network.test_a_jump_of_the_wall_clock_changes_nothing
        and signatures                 protocol.test_signing.test_no_clock_makes_a_guard_take_a_nonce_twice
        and tokens                     security.test_tokens.test_a_token_that_expires_is_good_until_then
    45  a breaker opens                test_circuit.test_after_some_failures_a_service_is_not_asked_any_more
        one trial                      test_circuit.test_one_call_tries_whether_it_is_back
        cancelled calls do not count   test_circuit.test_a_trial_that_is_cancelled_lets_another_one_try
        a local tier, and back         test_circuit.test_a_fleet_leaves_it_out_and_takes_it_in_again
"""  # noqa: E501 - the name of a test is one word
