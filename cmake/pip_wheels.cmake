# Injected by setup.py with CMAKE_PROJECT_specprune_ros_INCLUDE; a no-op on an apt ROS.
#
# The message packages that ship as Python wheels record the header folders of the machine that
# built them (/opt/python/...). CMake refuses imported targets with folders that do not exist, so
# these are dropped once every package has been found. The headers of the running Python are on
# the include path already.
if(CMAKE_VERSION VERSION_LESS 3.19)
  return()  # no cmake_language(DEFER); the wheel build requires a newer CMake
endif()

function(_specprune_drop_missing_includes)
  get_property(_targets DIRECTORY "${CMAKE_SOURCE_DIR}" PROPERTY IMPORTED_TARGETS)
  foreach(_target IN LISTS _targets)
    get_target_property(_includes ${_target} INTERFACE_INCLUDE_DIRECTORIES)
    if(_includes)
      set(_kept "")
      foreach(_dir IN LISTS _includes)
        if(_dir MATCHES "^\\$<" OR EXISTS "${_dir}")
          list(APPEND _kept "${_dir}")
        endif()
      endforeach()
      set_target_properties(${_target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${_kept}")
    endif()
  endforeach()
endfunction()

cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL _specprune_drop_missing_includes)
